#!/usr/bin/env python3
"""Measures what the daemon promises: on a CPU with the demo model, throughput on any device and model too. Each row is one JSON object.

    bench_daemon.py --build-dir build [--only throughput,latency,overload,kills,soak] [--kills 1000] [--minutes 30]
"""
import argparse
import base64
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from daemon_load import Load, descriptors, draw, kinds, rss_bytes  # noqa: E402
from server_client import Daemon, make_config  # noqa: E402

MODEL = ROOT / "deploy" / "models" / "scenes-256"
PICTURE = {"prompt": "a red house in the snow", "steps": 20, "guidance_scale": 5, "sampler": "euler"}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def init_image():
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.started = options, folder, 0

    def daemon(self, model=None, **config):
        self.started += 1
        path = self.folder / f"asdmd-{self.started}.json"
        path.write_text(json.dumps(make_config(model or MODEL, self.options.device, **config)))
        daemon = Daemon([self.options.build_dir / "asdmd", "--config", path], self.folder / f"log-{self.started}")
        return daemon.wait_listening().wait_ready()

    def memory(self, daemon):
        return {"front": rss_bytes(daemon.pid), "worker": sum(rss_bytes(pid) for pid in daemon.children())}

    # --- pictures per second, 64 clients in a closed loop, beside the bare engine

    def bare(self):
        done = subprocess.run([self.options.build_dir / "asdm", "bench", "pipeline", "--model", self.options.model, "--rows", "8",
                               "--device", self.options.device, "--width", self.options.size, "--height", self.options.size,
                               "--steps", "20", "--runs", "3", "--json"],
                              capture_output=True, text=True, check=True)
        return 8 / (json.loads(done.stdout)["median_ms"] / 1e3)

    def served(self, seconds):
        daemon = self.daemon(self.options.model)
        seeds = iter(range(10**9))
        lock = threading.Lock()

        def choose():
            with lock:
                size = int(self.options.size)
                return 0, {**PICTURE, "sampler": "pndm", "width": size, "height": size, "seed": next(seeds)}

        load = Load(daemon.port, 64, choose, 600).start()
        time.sleep(self.options.seconds / 3)  # the first batches fill up
        begun = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        count = sum(begun <= result[5] <= ended and result[1] == 200 for result in load.results)
        load.stopping.set()
        daemon.process.kill()
        daemon.process.wait()
        return count / (ended - begun)

    def throughput(self):
        before = self.bare()
        served = self.served(self.options.seconds)
        after = self.bare()
        bare = (before + after) / 2
        return {"bare_per_s": bare, "bare_runs": [before, after], "daemon_per_s": served, "ratio": served / bare,
                "must_hold": ">= 0.95"}

    # --- what front and queue add, one client

    def latency(self):
        daemon = self.daemon()
        added, with_png = [], []
        body = {**PICTURE, "width": 64, "height": 64, "steps": 2}
        for i in range(self.options.requests):
            status, _, headers, seconds = draw(daemon.port, {**body, "seed": i})
            assert status == 200
            if i >= 20:
                with_png.append((seconds - float(headers["x-inference-time"])) * 1e3)
        lines = daemon.request("GET", "/metrics").text.splitlines()
        value = {name: float(line.split()[-1]) for line in lines for name in ("sum", "count")
                 if line.startswith(f'asdm_stage_duration_seconds_{name}{{stage="png"}}')}
        png = value["sum"] / value["count"] * 1e3
        daemon.end()
        return {"added_median_ms": statistics.median(with_png), "added_p99_ms": percentile(with_png, 0.99),
                "of_it_png_mean_ms": png, "requests": len(with_png), "must_hold": "p99 <= 5 ms"}

    # --- ten times more clients' requests than can be served

    def overload(self):
        # Pictures of a second each, so that ten times the capacity is few requests and the clients cost no processor time.
        seeds = iter(range(10**9))
        lock = threading.Lock()

        def choose():
            with lock:
                return 0, {**PICTURE, "seed": next(seeds)}

        daemon = self.daemon(queue={"pictures_max": 16}, results={"memory_mb": 4})
        load = Load(daemon.port, 24, choose, 600).start()
        time.sleep(30)
        begun = len([r for r in load.results if r[1] == 200])
        start = time.monotonic()
        time.sleep(self.options.seconds)
        normal = (len([r for r in load.results if r[1] == 200]) - begun) / (time.monotonic() - start)
        load.stop()

        class Impatient(Load):
            def pause(self, headers):
                assert float(headers["retry-after"]) > 0
                return 5

        clients = 80
        load = Impatient(daemon.port, clients, choose, 600).start()
        time.sleep(15)
        memory, begun, start = self.memory(daemon), len(load.results), time.monotonic()
        middle = None
        while time.monotonic() - start < self.options.overload_seconds:
            time.sleep(1)
            if middle is None and time.monotonic() - start > self.options.overload_seconds / 2:
                middle = self.memory(daemon)
        ended = time.monotonic()
        memory_after = self.memory(daemon)
        results = load.results[begun:]
        good = sum(r[1] == 200 and r[5] <= ended for r in results)
        refused = [r for r in results if r[1] in (429, 503)]
        load.stop()
        daemon.end()
        return {"unloaded_per_s": normal, "goodput_per_s": good / (ended - start),
                "ratio": good / (ended - start) / normal, "offered_over_capacity": len(results) / (ended - start) / normal,
                "refused": len(refused), "refusal_p99_ms": percentile([r[4] for r in refused], 0.99) * 1e3,
                "statuses": dict(Counter(r[1] for r in results)), "seconds": ended - start,
                "memory_start": memory, "memory_middle": middle, "memory_end": memory_after,
                "must_hold": "ratio >= 0.95, refusals p99 <= 50 ms, memory flat"}

    # --- kill -9 of the worker at random moments under load

    def kills(self):
        daemon = self.daemon()
        bodies = kinds(60, 5, init_image())
        alone = []
        for body in bodies:
            status, data, _, _ = draw(daemon.port, body)
            assert status == 200, data
            alone.append(data)
        draws, done, told = random.Random(8), 0, 0
        load = Load(daemon.port, 16, lambda: (lambda key: (key, bodies[key]))(draws.randrange(len(bodies)))).start()
        start = time.monotonic()
        while done < self.options.kills:
            time.sleep(draws.uniform(0.05, 2.5))
            for pid in daemon.children():
                try:
                    os.kill(pid, signal.SIGKILL)
                    done += 1
                except ProcessLookupError:
                    pass
            if done % 50 == 0 and done != told:
                told = done
                print(f"  {done} kills, {len(load.results)} requests", file=sys.stderr, flush=True)
        seconds = time.monotonic() - start
        results = load.stop()
        wrong = sum(status == 200 and data != alone[key] for key, status, data, *_ in results)
        unanswered = sum(thread.is_alive() for thread in load.threads) + sum(r[1] == 0 for r in results)
        restarts = [line for line in daemon.request("GET", "/metrics").text.splitlines() if "worker_restarts_total{" in line]
        daemon.wait_ready()
        daemon.end()
        return {"kills": done, "seconds": seconds, "requests": len(results), "unanswered": unanswered,
                "wrong_bytes": wrong, "statuses": dict(Counter(r[1] for r in results)), "restarts": restarts,
                "must_hold": "all answered, 0 wrong bytes"}

    # --- half an hour of everything

    def fill_batches(self, daemon, bodies):
        """Draws every size in full batches, so that all that is planned when it is first met is planned."""
        for size in sorted({(body["width"], body["height"]) for body in bodies}):
            left = iter(range(64))
            body = {**bodies[0], "width": size[0], "height": size[1], "steps": 8, "guidance_scale": 5}
            Load(daemon.port, 32, lambda body=body, left=left: (next(left), body)).start().join()

    def soak(self):
        daemon = self.daemon(queue={"pictures_max": 32}, results={"memory_mb": 16})
        bodies = kinds(80, 6, init_image())
        draws = random.Random(9)
        self.fill_batches(daemon, bodies)
        load = Load(daemon.port, 10, lambda: (lambda key: (key, bodies[key]))(draws.randrange(len(bodies)))).start()
        stop = threading.Event()

        def bother():
            while not stop.is_set():
                job = daemon.job(wait=False, steps=20, previews=2)
                time.sleep(0.3)
                if job.status == 202 and draws.random() < 0.5:
                    daemon.request("DELETE", f"/v1/jobs/{job.json()['id']}")
                daemon.request("POST", "/v1/images/generations",
                               {"prompt": "a boat", "size": "64x64", "steps": 2, "response_format": "b64_json"})
                daemon.request("POST", "/sdapi/v1/txt2img", {"prompt": "a (boat:1.2)", "width": 64, "height": 64, "steps": 2})
                daemon.request("POST", "/v1/jobs", b"{")
                daemon.request("GET", "/metrics")

        thread = threading.Thread(target=bother, daemon=True)
        thread.start()
        samples, start = [], time.monotonic()
        while time.monotonic() - start < self.options.minutes * 60:
            time.sleep(15)
            samples.append({"minute": (time.monotonic() - start) / 60, **self.memory(daemon),
                            "descriptors": descriptors(daemon.pid)})
            print(f"  {json.dumps(samples[-1])}", file=sys.stderr, flush=True)
        stop.set()
        thread.join(60)
        results = load.stop()
        daemon.end()
        warm = [s for s in samples if s["minute"] > self.options.minutes / 3]
        first, last = warm[: len(warm) // 4] or warm, warm[-(len(warm) // 4):] or warm
        growth = {key: statistics.median(s[key] for s in last) / statistics.median(s[key] for s in first) - 1
                  for key in ("front", "worker")}
        total = [statistics.median(s["front"] + s["worker"] for s in part) for part in (first, last)]
        return {"minutes": self.options.minutes, "requests": len(results), "statuses": dict(Counter(r[1] for r in results)),
                "rss_growth": growth, "rss_growth_together": total[1] / total[0] - 1, "rss_end": samples[-1],
                "descriptors": [statistics.median(s["descriptors"] for s in part) for part in (first, last)],
                "must_hold": "RSS +1 % at most after warm-up, descriptors flat"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build")
    parser.add_argument("--only", default="throughput,latency,overload,kills,soak")
    parser.add_argument("--model", type=Path, default=MODEL, help="of throughput")
    parser.add_argument("--size", default="256", help="of the pictures of throughput")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=90, help="of the timed part of throughput")
    parser.add_argument("--overload-seconds", type=float, default=300)
    parser.add_argument("--requests", type=int, default=520, help="of latency")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=30, help="of the soak")
    parser.add_argument("--json", type=Path, help="results are added to this file, a line each")
    options = parser.parse_args()
    options.build_dir = options.build_dir.resolve()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for name in options.only.split(","):
            result = {"what": name, **getattr(bench, name)()}
            print(json.dumps(result, indent=1), flush=True)
            if options.json:
                with options.json.open("a") as out:
                    out.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
