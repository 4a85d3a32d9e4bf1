#!/usr/bin/env python3
"""CPU speed and memory against PyTorch and diffusers, both timed in turn in one run on one machine.

usage: bench_cpu.py --build-dir DIR --cache DIR [--only unet,vae,picture,load,memory] [--dtypes fp32,bf16] [--threads 2]
                    [--rounds 3] [--runs 5] [--json OUT.json]

Every comparison alternates: PyTorch, asdm, PyTorch, asdm, ... `--rounds` times; each turn is one warm-up and `--runs`
timed calls; the figure is the median over all calls of all turns. Beside each speed stands the error: relative L2
against PyTorch in fp32 on the same weights and inputs. --cache keeps a checkpoint of the SD 1.5 shape with random
weights (2 GB, fp16), written once.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import sd15_checkpoint  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "deploy" / "models" / "scenes-256"

# What must hold: (PyTorch's time / asdm's) at least, or a limit.
BOUNDS = {("unet", "fp32"): 1.5, ("unet", "bf16"): 1.4, ("vae", "fp32"): 1.3, ("vae", "bf16"): 1.3}
PICTURE_SHARE_MAX = 0.60
LOAD_S_MAX = 3.0
MEMORY_OVER_WEIGHTS_MAX_GB = 0.7

# Run by a small process of its own, because a child's peak starts at that of the process that made it.
WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""

def times_s(call, runs):
    """Seconds of each of `runs` calls after one that is not counted."""
    call()
    measured = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        measured.append(time.perf_counter() - start)
    return measured


class Bench:
    def __init__(self, options):
        import torch

        self.options, self.torch = options, torch
        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        self.asdm, self.stages = options.build_dir / "asdm", options.build_dir / "tests" / "stages"
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}

    # --- the checkpoint of full size

    def checkpoint(self):
        return sd15_checkpoint.make(self.options.cache)

    def weight_bytes(self):
        return sum(path.stat().st_size for path in self.checkpoint().rglob("*.safetensors"))

    # --- one operator of the pipeline against PyTorch

    def asdm_times_ms(self, what, dtype):
        """(median, min, max) by asdm's own clock; `--runs` calls."""
        kind = {"unet": "unet", "vae": "vae-decode"}[what]
        rows = "2" if what == "unet" else "1"
        command = [self.asdm, "bench", kind, "--arch", "sd15", "--rows", rows, "--width", "256", "--height", "256",
                   "--device", "cpu", "--dtype", dtype, "--threads", str(self.options.threads), "--runs",
                   str(self.options.runs), "--json"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"asdm bench failed:\n{done.stderr}")
        result = json.loads(done.stdout)
        return result["median_ms"], result["min_ms"], result["max_ms"]

    def module(self, what):
        import diffusers

        kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[what]
        return kind.from_pretrained(self.checkpoint() / what).eval()

    def inputs(self, what):
        generator = self.torch.Generator().manual_seed(4)
        made = {"latents": self.torch.randn(2 if what == "unet" else 1, 4, 32, 32, generator=generator)}
        if what == "unet":
            made["embeds"] = self.torch.randn(2, 77, 768, generator=generator)
        return made

    def torch_call(self, what, module, inputs, dtype):
        torch, kind = self.torch, self.dtype[dtype]
        module = module.to(kind).to(memory_format=torch.channels_last)
        latents = inputs["latents"].to(kind).to(memory_format=torch.channels_last)
        if what == "unet":
            embeds, timestep = inputs["embeds"].to(kind), torch.tensor([500.0])
            return lambda: module(latents, timestep, embeds).sample
        scaled = latents / module.config.scaling_factor
        return lambda: module.decode(scaled).sample

    def asdm_output(self, what, inputs, dtype):
        """The same call through the stages program."""
        import tensorfile

        numpy = {name: value.numpy() for name, value in inputs.items()}
        if what == "unet":
            tensors = {"unet_in": numpy["latents"], "timestep": self.torch.tensor([500.0]).numpy(),
                       "negative_prompt_embeds": numpy["embeds"][:1], "prompt_embeds": numpy["embeds"][1:]}
        else:
            tensors = {"latents": numpy["latents"]}
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            tensorfile.write(source, tensors)
            subprocess.run([self.stages, self.checkpoint(), "cpu", dtype, source, result], check=True)
            return tensorfile.read(result)["unet_out" if what == "unet" else "image"].copy()

    def compare(self, what):
        """Rows for a UNet call of 2 rows at 32x32 latents, or a VAE decode of 256x256."""
        import compare

        inputs, made = self.inputs(what), []
        reference = self.torch_call(what, self.module(what), inputs, "fp32")().float().numpy()
        for dtype in self.options.dtypes:
            call = self.torch_call(what, self.module(what), inputs, dtype)
            theirs, ours = [], []
            for _ in range(self.options.rounds):
                theirs += [1000 * value for value in times_s(call, self.options.runs)]
                ours.append(self.asdm_times_ms(what, dtype))
            torch_error = compare.rel_l2(call().float().numpy(), reference)
            del call
            torch_ms, asdm_ms = statistics.median(theirs), statistics.median(middle for middle, _, _ in ours)
            bound = BOUNDS[what, dtype]
            made.append({
                "what": {"unet": "UNet call, SD 1.5 shape, 2 rows, 32x32 latents",
                         "vae": "VAE decode, SD 1.5 shape, 256x256"}[what],
                "dtype": dtype,
                "torch_ms": torch_ms,
                "asdm_ms": asdm_ms,
                "torch_min_ms": min(theirs),
                "asdm_min_ms": min(low for _, low, _ in ours),
                "ratio": torch_ms / asdm_ms,
                "bound": f">= {bound}x",
                "holds": torch_ms / asdm_ms >= bound,
                "asdm_rel_l2": compare.rel_l2(self.asdm_output(what, inputs, dtype), reference),
                "torch_rel_l2": torch_error,
            })
        return made

    # --- a whole picture of the demo checkpoint

    def picture(self):
        """diffusers: the pipeline call alone, model loaded, imports done. asdm: the whole process."""
        import diffusers

        made = []
        request = dict(prompt="a large red house in a meadow on a clear day", num_inference_steps=20, guidance_scale=5.0)
        for dtype in self.options.dtypes:
            pipe = diffusers.StableDiffusionPipeline.from_pretrained(DEMO, torch_dtype=self.dtype[dtype], safety_checker=None)
            pipe.set_progress_bar_config(disable=True)
            for part in (pipe.unet, pipe.vae):
                part.to(memory_format=self.torch.channels_last)
            theirs, ours = [], []
            with tempfile.TemporaryDirectory() as folder:
                command = [self.asdm, "generate", "--model", DEMO, "--prompt", request["prompt"], "--output",
                           Path(folder) / "o.png", "--steps", 20, "--guidance-scale", 5, "--seed", 7, "--width", 256, "--height",
                           256, "--device", "cpu", "--dtype", dtype, "--threads", self.options.threads, "--quiet"]
                for _ in range(self.options.rounds):
                    theirs += times_s(lambda: pipe(width=256, height=256, **request), self.options.runs)
                    ours += times_s(lambda: subprocess.run(list(map(str, command)), check=True), self.options.runs)
            torch_ms, asdm_ms = 1000 * statistics.median(theirs), 1000 * statistics.median(ours)
            made.append({
                "what": "demo picture, 20 steps pndm, 256x256 (asdm: whole process; diffusers: pipeline call, loaded)",
                "dtype": dtype, "torch_ms": torch_ms, "asdm_ms": asdm_ms, "ratio": torch_ms / asdm_ms,
                "bound": f"asdm <= {PICTURE_SHARE_MAX:.0%}", "holds": asdm_ms <= PICTURE_SHARE_MAX * torch_ms,
            })
        return made

    # --- load time and memory

    def generate_watched(self, dtype, steps):
        """Runs generate on the large checkpoint: ([(seconds, line of progress)], peak resident kB)."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.asdm, "generate", "--model", self.checkpoint(), "--prompt", "a house", "--output",
                       Path(folder) / "o.png", "--steps", steps, "--sampler", "euler", "--width", 256, "--height", 256,
                       "--device", "cpu", "--dtype", dtype, "--threads", self.options.threads]
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", WATCH, *map(str, command)], stderr=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
            lines = [(time.perf_counter() - start, line) for line in process.stderr]
            peak_kb = int(process.stdout.read())
        if process.wait():
            sys.exit("asdm generate failed:\n" + "".join(line for _, line in lines))
        return lines, peak_kb

    def load(self):
        """Process start to the start of the first step, page cache warm: end of step 1 less the time of one step."""
        made = []
        for dtype in self.options.dtypes:
            self.generate_watched(dtype, 1)  # fills the page cache
            loads = []
            for _ in range(self.options.rounds):
                lines, _ = self.generate_watched(dtype, 3)
                ends = {}
                for seconds, line in lines:
                    match = re.search(r"\b([123])\s*/\s*3\b", line)
                    if match:
                        ends.setdefault(int(match[1]), seconds)
                if not {1, 2, 3} <= set(ends):
                    sys.exit(f"no lines 1/3, 2/3, 3/3 among the messages: {lines}")
                loads.append(ends[1] - (ends[3] - ends[1]) / 2)
            seconds = statistics.median(loads)
            made.append({"what": f"load to first step, {self.weight_bytes() / 1e9:.2f} GB of fp16", "dtype": dtype,
                         "asdm_ms": 1000 * seconds, "bound": f"<= {LOAD_S_MAX} s", "holds": seconds <= LOAD_S_MAX})
        return made

    def memory(self):
        """Largest resident set of a process that draws 256x256 in bf16; mapped weights count as resident."""
        _, peak_kb = self.generate_watched("bf16", 2)
        peak_gb, weights_gb = peak_kb * 1024 / 1e9, self.weight_bytes() / 1e9
        return [{"what": "peak memory, SD 1.5 shape fp16 checkpoint, 256x256", "dtype": "bf16", "peak_gb": peak_gb,
                 "weights_gb": weights_gb, "bound": f"<= weights + {MEMORY_OVER_WEIGHTS_MAX_GB} GB",
                 "holds": peak_gb <= weights_gb + MEMORY_OVER_WEIGHTS_MAX_GB}]


def machine(options):
    import torch

    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16") if f" {flag}" in text]
    return {"cpu": name[1] if name else "unknown", "flags": flags, "cores": os.cpu_count(), "threads": options.threads,
            "torch": torch.__version__, "rounds": options.rounds, "runs": options.runs}


def markdown(rows):
    def cell(row, key, form):
        return form.format(row[key]) if key in row else ""

    lines = ["| what | dtype | PyTorch | asdm | ratio | must hold | holds | relative L2: asdm, PyTorch |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        ours = cell(row, "asdm_ms", "{:.0f} ms") or f"{row['peak_gb']:.2f} GB (weights {row['weights_gb']:.2f} GB)"
        error = f"{row['asdm_rel_l2']:.1e}, {row['torch_rel_l2']:.1e}" if "asdm_rel_l2" in row else ""
        lines.append(f"| {row['what']} | {row['dtype']} | {cell(row, 'torch_ms', '{:.0f} ms')} | {ours} | "
                     f"{cell(row, 'ratio', '{:.2f}x')} | {row['bound']} | {'yes' if row['holds'] else 'NO'} | {error} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build")
    parser.add_argument("--cache", type=Path, required=True, help="keeps the 2 GB checkpoint")
    parser.add_argument("--only", default="unet,vae,picture,load,memory", type=lambda text: text.split(","))
    parser.add_argument("--dtypes", default="fp32,bf16", type=lambda text: text.split(","))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="writes the figures here as well")
    options = parser.parse_args()
    unknown = set(options.only) - {"unet", "vae", "picture", "load", "memory"}
    if unknown:
        parser.error(f"--only: unknown: {' '.join(sorted(unknown))}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    options.cache.mkdir(parents=True, exist_ok=True)
    bench, rows = Bench(options), []
    for what in options.only:
        made = bench.compare(what) if what in ("unet", "vae") else getattr(bench, what)()
        rows += made
        print("\n".join(json.dumps(row) for row in made), file=sys.stderr, flush=True)
    report = {"machine": machine(options), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{json.dumps(report['machine'])}\n\n{markdown(rows)}")
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


if __name__ == "__main__":
    main()
