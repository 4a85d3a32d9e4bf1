#!/usr/bin/env python3
"""Light UNets: those chosen by measured damage against those of a fixed order, and their speed at the size of SD 1.5.

usage: bench_light.py --build-dir DIR [--only choice,speed] [--threads N] [--device cpu] [--json OUT.json]
                      [--model DIR] [--steps 10] [--runs 15] [--held-out 12] [--guidance-scale 5] [--work DIR]
                      [--cache DIR] [--rounds 5] [--dtype auto]

choice: the fixed choices are BK-SDM's (arXiv 2305.15798): Base is all pairs, Small all pairs and the middle block; its published
models say nothing of those between, so two orders lead there: from the largest map inwards and from the smallest
outwards. For each of them the greedy choice (asdm analyze --speedup) must be at least as fast, by one and the same
measurement; both are then measured on held-out prompts, other noise and another run of the clock. Without --prompts the
model's own prompts.txt is what the choice is made on; the held-out ones are drawn here from the demo model's vocabulary.
--work keeps the analyses, so that an interrupted run goes on.

speed: a UNet of the SD 1.5 shape with random weights (--cache keeps it, and the students, 2 GB each), 512x512, 2 rows,
against its students without the four pairs and with global-regional attention at 64 and 32, without and with conditional
convolutions. Before each student the whole UNet is timed again; the median of the ratios of neighbours counts. All have
the exact rewrites.

Exit 1 when a greedy choice does more damage than the fixed one on the held-out prompts, by more than a tenth of a percent of
it, or a student is less than 1.5 times as fast as the whole UNet (on a GPU: than the figures of SPEED).
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "bench"), str(ROOT / "tests" / "support")]
DEMO = ROOT / "deploy" / "models" / "scenes-256"

OBJECTS = ["house", "tree", "pine tree", "boat", "balloon", "mushroom", "cactus", "snowman", "flower", "rocket", "lighthouse", "tent"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black"]
SIZES = ["", "small ", "little ", "tiny ", "large ", "big ", "huge "]
PLACES = ["", " on the left", " in the middle", " on the right"]
GROUNDS = ["in a meadow", "in the desert", "in the snow", "on the sea", "in the hills", "in the mountains"]
EQUAL = 0.001  # what the search takes for the same damage: other prompts turn such differences round
SKIES = ["on a clear day", "at sunset", "at night", "at dawn", "on a cloudy day", "in the rain"]


def held_out_prompts(count, used, seed=20261126):
    draw, found = random.Random(seed), []
    while len(found) < count:
        things = [f"a {draw.choice(SIZES)}{draw.choice(COLOURS)} {draw.choice(OBJECTS)}{draw.choice(PLACES)}" for _ in range(draw.choice([1, 2]))]
        prompt = f"{' and '.join(things)} {draw.choice(GROUNDS)} {draw.choice(SKIES)}"
        if prompt not in used and prompt not in found:
            found.append(prompt)
    return found


class Analyses:
    """asdm analyze on one set of prompts, everything kept in one JSON file."""

    def __init__(self, options, path, prompts, seed):
        self.path = path
        self.command = [options.build_dir / "asdm", "analyze", options.model, "--json", path, "--steps", options.steps,
                        "--runs", options.runs, "--guidance-scale", options.guidance_scale, "--device", options.device, "--seed", seed]
        if options.threads:
            self.command += ["--threads", options.threads]
        if prompts:
            self.command += ["--prompts", prompts]

    def run(self, *arguments):
        subprocess.run([str(part) for part in (*self.command, *arguments)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(self.path.read_text())


def trial(analysis, removed):
    return next(t for t in analysis["trials"] if set(t["removed"]) == set(removed))


def speedup(t):
    return t["full_ms"] / t["ms"]


def fixed_choices(units):
    """[(name, removed)], unit sets that repeat left out."""
    pairs = [unit["name"] for unit in units if unit["kind"] == "pair"]
    rest = [unit["name"] for unit in units if unit["kind"] == "mid"]
    found = [("Base", pairs), ("Small", pairs + rest)]
    for n in range(1, len(pairs)):
        found += [(f"{n} from outside", pairs[:n]), (f"{n} from inside", pairs[-n:])]
    return found


def compare(options, work):
    chosen_on = Analyses(options, work / "choice.json", options.prompts, 0)
    analysis = chosen_on.run()  # the whole search
    fixed = fixed_choices(analysis["units"])
    analysis = chosen_on.run("--sets", ";".join(",".join(removed) for _, removed in fixed))
    rows = []
    for name, removed in fixed:
        target = speedup(trial(analysis, removed))
        if target <= 1:
            continue
        choice = chosen_on.run("--speedup", f"{target * (1 - 1e-12):.15g}")["chosen"]
        rows.append({"fixed": name, "removed": removed, "greedy": choice})
    analysis = json.loads(chosen_on.path.read_text())
    held_out = work / "held-out.txt"
    held_out.write_text("\n".join(held_out_prompts(options.held_out, set(analysis["prompts"]))) + "\n")
    sets = {tuple(row[key]) for row in rows for key in ("removed", "greedy")}
    other = Analyses(options, work / "held-out.json", held_out, 1000).run("--sets", ";".join(",".join(s) for s in sorted(sets)))
    for row in rows:
        for label, key in (("fixed", "removed"), ("greedy", "greedy")):
            here, there = trial(analysis, row[key]), trial(other, row[key])
            row[f"{label}_speedup"], row[f"{label}_speedup_again"] = speedup(here), speedup(there)
            row[f"{label}_damage_choice"], row[f"{label}_damage"] = here["damage"]["mean"], there["damage"]["mean"]
        row["difference"] = row["greedy_damage"] / row["fixed_damage"] - 1
        row["holds"] = row["difference"] <= EQUAL
    rows.sort(key=lambda row: row["fixed_speedup"])
    return {"device": analysis["device"], "dtype": analysis["dtype"], "calibration_rows": analysis["calibration_rows"],
            "held_out_rows": other["calibration_rows"], "rows": rows}


def show(result):
    print(f"{result['device']} {result['dtype']}; damage over {result['held_out_rows']} held-out rows (in brackets: the "
          f"{result['calibration_rows']} that the choice was made on)\n")
    print("| fixed choice | speed-up | damage | greedy choice | speed-up | damage | difference |\n|---|---|---|---|---|---|---|")
    for row in result["rows"]:
        cells = [f"{row['fixed']}: {' '.join(row['removed'])}"]
        for label in ("fixed", "greedy"):
            if label == "greedy":
                cells.append("the same" if set(row["greedy"]) == set(row["removed"]) else " ".join(row["greedy"]))
            cells += [f"{row[label + '_speedup']:.3f} ({row[label + '_speedup_again']:.3f} again)",
                      f"{row[label + '_damage']:.4f} ({row[label + '_damage_choice']:.4f})"]
        print("| " + " | ".join(cells + [f"{100 * row['difference']:+.2f} %{'' if row['holds'] else ' MORE'}"]) + " |")


# --- speed

STUDENT = ["--remove", "pair64,pair32,pair16,pair8", "--gri", "64,32"]
# By what --condconv says: how many times as fast as the whole UNet, on a CPU and on a GPU.
SPEED = {"off": (1.5, 1.6), "timestep": (1.5, 1.55), "full": (1.5, 1.45)}


def calls(options, model):
    command = [options.build_dir / "asdm", "bench", "unet", "--model", model, "--rows", 2, "--width", 512, "--height", 512,
               "--device", options.device, "--dtype", options.dtype, "--runs", 3 if options.device == "cpu" else 50, "--json"]
    if options.threads:
        command += ["--threads", options.threads]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def students(options):
    import sd15_checkpoint

    teacher, made = sd15_checkpoint.make(options.cache), {}
    for how in SPEED:
        made[how] = options.cache / f"sd15-student-{how}"
        if not made[how].exists():
            subprocess.run([options.build_dir / "asdm", "prune", teacher, made[how], *STUDENT, "--condconv", how], check=True,
                           stdout=subprocess.DEVNULL)
    return teacher, made


def measure_speed(options):
    teacher, made = students(options)
    times = {how: [] for how in SPEED}
    for _ in range(options.rounds):
        for how, student in made.items():
            times[how].append((calls(options, teacher), calls(options, student)))
    rows = []
    for how, pairs in times.items():
        ratios, least = [a["median_ms"] / b["median_ms"] for a, b in pairs], SPEED[how][options.device != "cpu"]
        whole, light = (min(pair[side]["min_ms"] for pair in pairs) for side in (0, 1))
        rows.append({"condconv": how, "whole_ms": whole, "ms": light, "fastest_ratio": whole / light, "ratio": statistics.median(ratios),
                     "ratios": ratios, "must_hold": least, "holds": statistics.median(ratios) >= least})
    return {"device": options.device, "dtype": options.dtype, "threads": options.threads, "rows": rows}


def show_speed(result):
    print("| students: four pairs removed, GRI at 64 and 32 | whole UNet, fastest call | student's | their ratio | of neighbours: median (each "
          "round) | must hold |\n|---|---|---|---|---|---|")
    for row in result["rows"]:
        each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        print(f"| condconv {row['condconv']} | {row['whole_ms']:.1f} ms | {row['ms']:.1f} ms | {row['fastest_ratio']:.2f}x | "
              f"{row['ratio']:.2f}x ({each}) | "
              f">= {row['must_hold']}x{'' if row['holds'] else ' MISSED'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--prompts", type=Path, help="what the choice is made on")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance-scale", type=float, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="choice,speed", type=lambda text: text.split(","))
    parser.add_argument("--cache", type=Path, help="keeps the checkpoint of the SD 1.5 shape and its students")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    if set(options.only) - {"choice", "speed"}:
        parser.error("--only: choice and speed are known")
    if "speed" in options.only and not options.cache:
        parser.error("speed needs --cache")
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if "choice" in options.only:
            results["choice"] = compare(options, work)
            show(results["choice"])
    if "speed" in options.only:
        results["speed"] = measure_speed(options)
        show_speed(results["speed"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    sys.exit(0 if all(row["holds"] for result in results.values() for row in result["rows"]) else 1)


if __name__ == "__main__":
    main()
