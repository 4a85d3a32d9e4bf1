#!/usr/bin/env python3
"""GPU speed against PyTorch and diffusers compiled by torch.compile, in one run on one machine, with the error beside it.

usage: bench_cuda.py --build-dir DIR --cache DIR [--only unet,vae,picture,load] [--runs 30] [--rounds 2] [--json OUT.json]

Both sides have the same weights (a checkpoint of the SD 1.5 shape, random, fp16, kept under --cache), fp16, 512x512. PyTorch
runs in channels_last under torch.compile(mode="reduce-overhead"), the default of its users who want speed; --strong adds
mode="max-autotune". The two take turns, --rounds times; each figure is the median over all timed calls. The error of a UNet
call and of a decoded picture is the relative L2 distance to PyTorch in fp32 (no TF32). What must hold is what the project
promises for an H200.
"""
import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import compare  # noqa: E402
import sd15_checkpoint  # noqa: E402
import tensorfile  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
BOUNDS = {"unet 2": 2.0, "unet 16": 1.6, "vae 1": 2.0, "vae 8": 2.0, "picture 1": 2.0, "picture 8": 1.6}
LOAD_S_MAX, ERROR_RATIO_MAX = 3.0, 2.0
STEPS, GUIDANCE = 25, 7.5


class Bench:
    def __init__(self, options):
        import torch

        self.options, self.torch = options, torch
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.asdm, self.stages = options.build_dir / "asdm", options.build_dir / "tests" / "stages"
        self.model = sd15_checkpoint.make(options.cache)
        self.compiled = {}

    # --- PyTorch

    def module(self, what, dtype):
        import diffusers

        kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[what]
        module = kind.from_pretrained(self.model / what).eval().to("cuda", dtype)
        return module.to(memory_format=self.torch.channels_last)

    def call_of(self, what, mode):
        """The compiled call, made once for each part and mode."""
        if (what, mode) not in self.compiled:
            module = self.module(what, self.torch.float16)
            function = module.decode if what == "vae" else module.forward
            self.compiled[what, mode] = self.torch.compile(function, mode=mode, fullgraph=True)
        return self.compiled[what, mode]

    def inputs(self, what, rows):
        generator = self.torch.Generator().manual_seed(4)
        return {"latents": self.torch.randn(rows, 4, 64, 64, generator=generator),
                "embeds": self.torch.randn(rows, 77, 768, generator=generator)}

    def torch_run(self, what, function, inputs, dtype):
        torch = self.torch
        latents = inputs["latents"].to("cuda", dtype).to(memory_format=torch.channels_last)
        if what == "vae":
            return lambda: function(latents / 0.18215, return_dict=False)[0]
        embeds, timestep = inputs["embeds"].to("cuda", dtype), torch.tensor(500.0, device="cuda")
        return lambda: function(latents, timestep, embeds, return_dict=False)[0]

    def torch_ms(self, run):
        torch, times = self.torch, []
        for _ in range(5):
            run()
        torch.cuda.synchronize()
        for _ in range(self.options.runs):
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        return times

    # --- asdm

    def bench_json(self, *command):
        done = subprocess.run([str(self.asdm), "bench", *map(str, command), "--device", "cuda", "--dtype", "fp16", "--json"],
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"asdm bench failed:\n{done.stderr}")
        return json.loads(done.stdout)["median_ms"]

    def asdm_output(self, what, inputs, dtype):
        numpy = {name: value.numpy() for name, value in inputs.items()}
        tensors = {"latents": numpy["latents"]} if what == "vae" else {
            "unet_in": numpy["latents"], "timestep": self.torch.tensor([500.0]).numpy(),
            "negative_prompt_embeds": numpy["embeds"][:1], "prompt_embeds": numpy["embeds"][1:]}
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            tensorfile.write(source, tensors)
            subprocess.run([self.stages, self.model, "cuda", dtype, source, result], check=True)
            return tensorfile.read(result)["image" if what == "vae" else "unet_out"].copy()

    # --- rows of the table

    def row(self, what, theirs, ours, **more):
        torch_ms, asdm_ms = statistics.median(theirs), statistics.median(ours)
        bound = BOUNDS[what]
        return {"what": what, "torch_ms": torch_ms, "asdm_ms": asdm_ms, "ratio": torch_ms / asdm_ms, "bound": f">= {bound}x",
                "holds": torch_ms / asdm_ms >= bound, **more}

    def part(self, what, rows):
        inputs, kind = self.inputs(what, rows), "vae-decode" if what == "vae" else "unet"
        run, strong = self.torch_run(what, self.call_of(what, "reduce-overhead"), inputs, self.torch.float16), None
        if self.options.strong:
            strong = self.torch_run(what, self.call_of(what, "max-autotune"), inputs, self.torch.float16)
        theirs, ours, more = [], [], {}
        for _ in range(self.options.rounds):
            theirs += self.torch_ms(run)
            ours.append(self.bench_json(kind, "--model", self.model, "--rows", rows, "--runs", self.options.runs))
            if strong:
                more["torch_strong_ms"] = statistics.median(self.torch_ms(strong))
        if rows == (1 if what == "vae" else 2):
            function = self.module(what, self.torch.float32)
            exact = self.torch_run(what, function.decode if what == "vae" else function, inputs, self.torch.float32)()
            exact = exact.float().cpu().numpy()
            more["torch_rel_l2"] = compare.rel_l2(run().float().cpu().numpy(), exact)
            more["asdm_rel_l2"] = compare.rel_l2(self.asdm_output(what, inputs, "fp16"), exact)
            more["error_holds"] = more["asdm_rel_l2"] <= ERROR_RATIO_MAX * more["torch_rel_l2"]
        return self.row(f"{what} {rows}", theirs, ours, **more)

    def unet(self):
        return [self.part("unet", 2), self.part("unet", 16)]

    def vae(self):
        return [self.part("vae", 1), self.part("vae", 8)]

    def torch_picture(self, count):
        """A function that draws `count` pictures as diffusers' pipeline does, both parts compiled, to PNG in memory. Its
        prompts are given: it is spared the text encoder and the checks."""
        import diffusers
        from PIL import Image

        torch, half = self.torch, self.torch.float16
        unet, decode = self.call_of("unet", "reduce-overhead"), self.call_of("vae", "reduce-overhead")
        scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(self.model / "scheduler")
        embeds = torch.randn(2 * count, 77, 768, device="cuda", dtype=half)
        noise = torch.randn(count, 4, 64, 64, device="cuda", dtype=half).to(memory_format=torch.channels_last)

        def draw():
            scheduler.set_timesteps(STEPS, device="cuda")
            latents = noise * scheduler.init_noise_sigma
            for timestep in scheduler.timesteps:
                scaled = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
                torch.compiler.cudagraph_mark_step_begin()
                without, with_prompt = unet(scaled, timestep, embeds, return_dict=False)[0].chunk(2)
                latents = scheduler.step(without + GUIDANCE * (with_prompt - without), timestep, latents).prev_sample
            torch.compiler.cudagraph_mark_step_begin()
            image = decode(latents / 0.18215, return_dict=False)[0]
            image = ((image / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for one in image:
                Image.fromarray(one).save(io.BytesIO(), "PNG")

        return draw

    def picture(self):
        made = []
        for count in (1, 8):
            draw, theirs, ours = self.torch_picture(count), [], []
            for _ in range(3):
                draw()
            for _ in range(self.options.rounds):
                for _ in range(self.options.picture_runs):
                    start = time.perf_counter()
                    draw()
                    theirs.append(1000 * (time.perf_counter() - start))
                ours.append(self.bench_json("pipeline", "--model", self.model, "--rows", count, "--steps", STEPS, "--sampler",
                                            "euler", "--png", "--runs", self.options.picture_runs))
            made.append(self.row(f"picture {count}", theirs, ours))
        return made

    def load(self):
        """A whole process that draws one picture of one step, less what the same takes within a process."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.asdm, "generate", "--model", self.model, "--prompt", "a house", "--output", Path(folder) / "o.png",
                       "--steps", 1, "--sampler", "euler", "--device", "cuda", "--dtype", "fp16", "--quiet"]
            times = []
            for _ in range(4):  # the first fills the page cache
                start = time.perf_counter()
                subprocess.run(list(map(str, command)), check=True)
                times.append(time.perf_counter() - start)
        seconds = statistics.median(times[1:])
        return [{"what": "load 2 GB, and a picture of 1 step", "asdm_ms": 1000 * seconds, "bound": f"<= {LOAD_S_MAX} s",
                 "holds": seconds <= LOAD_S_MAX}]


def machine(torch):
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                            text=True).stdout.split("\n")[0].strip()
    return {"gpu": torch.cuda.get_device_name(), "driver": driver, "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version()}


def markdown(rows):
    lines = ["| what | PyTorch | asdm | ratio | must hold | holds | relative L2 to fp32: asdm, PyTorch |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        theirs = f"{row['torch_ms']:.2f} ms" if "torch_ms" in row else ""
        if "torch_strong_ms" in row:
            theirs += f" (max-autotune {row['torch_strong_ms']:.2f})"
        ratio = f"{row['ratio']:.2f}x" if "ratio" in row else ""
        error = f"{row['asdm_rel_l2']:.2e}, {row['torch_rel_l2']:.2e}" if "asdm_rel_l2" in row else ""
        lines.append(f"| {row['what']} | {theirs} | {row['asdm_ms']:.2f} ms | {ratio} | {row['bound']} | "
                     f"{'yes' if row['holds'] else 'NO'} | {error} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build")
    parser.add_argument("--cache", type=Path, required=True, help="keeps the 2 GB checkpoint")
    parser.add_argument("--only", default="load,unet,vae,picture", type=lambda text: text.split(","))
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--picture-runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--strong", action="store_true", help="max-autotune beside reduce-overhead (takes minutes)")
    parser.add_argument("--json", type=Path, help="writes the figures here as well")
    options = parser.parse_args()
    options.build_dir = options.build_dir.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    bench, rows = Bench(options), []
    for what in options.only:
        rows += getattr(bench, what)()
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        report = {"machine": machine(bench.torch), "rows": rows}
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{json.dumps(report['machine'])}\n\n{markdown(rows)}")
    sys.exit(0 if all(row["holds"] and row.get("error_holds", True) for row in rows) else 1)


if __name__ == "__main__":
    main()
