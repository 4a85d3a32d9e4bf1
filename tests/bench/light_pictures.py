#!/usr/bin/env python3
"""Pictures of a model and of its untrained light versions, side by side on one sheet.

usage: light_pictures.py --build-dir DIR --output SHEET.png [--model DIR] [--steps 20] [--guidance-scale 5] [--size 192] [--student OPTIONS ...]
                         [--threads N] [--device auto] [--prompt TEXT ...]

A row for each student, a column for each prompt; all pictures of a column have one seed. Each row says what asdm prune was
told, and the GMAC of a step that are left.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "deploy" / "models" / "scenes-256"
PROMPTS = ["a red house in a meadow on a clear day", "a small boat on the sea at sunset", "a snowman on the left in the snow at night",
           "a yellow lighthouse on the right on the sea in the rain"]
# By what is told to asdm prune; the heights are those of the demo model.
STUDENTS = ["--remove mid", "--remove pair4", "--remove pair8", "--remove pair16", "--remove pair32", "--gri 32", "--gri 32 --gri-window 8",
            "--remove pair8,pair4,mid", "--remove pair32,pair16,pair8,pair4",
            "--remove pair32,pair16,pair8,pair4 --gri 32 --condconv full"]
LEFT, TOP, GAP = 200, 34, 6


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def light(options, folder, student):
    """(directory, share of the step's GMAC that is left)"""
    out = folder / f"light-{len(list(folder.iterdir()))}"
    lines = run(options.build_dir / "asdm", "prune", options.model, out, *student.split()).splitlines()
    step = lines[0].split().index("step")
    before, after = (float(line.split()[step]) for line in lines[1:3])
    return out, after / before


def draw_row(options, folder, model):
    pictures = []
    for number, prompt in enumerate(options.prompt):
        path = folder / "picture.png"
        command = [options.build_dir / "asdm", "generate", "--model", model, "--prompt", prompt, "--output", path, "--steps", options.steps,
                   "--guidance-scale", options.guidance_scale, "--seed", number, "--device", options.device, "--quiet"]
        run(*command, *(["--threads", options.threads] if options.threads else []))
        pictures.append(Image.open(path).convert("RGB").resize((options.size, options.size)))
    return pictures


def wrap(text, font, width):
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def sheet(options, rows):
    cell = options.size + GAP
    image = Image.new("RGB", (LEFT + cell * len(options.prompt), TOP + cell * len(rows)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for column, prompt in enumerate(options.prompt):
        draw.text((LEFT + column * cell, 0), wrap(prompt, font, options.size), "black", font)
    for row, (label, pictures) in enumerate(rows):
        draw.text((GAP, TOP + row * cell + GAP), wrap(label.replace(",", ", "), font, LEFT - 2 * GAP), "black", font)
        for column, picture in enumerate(pictures):
            image.paste(picture, (LEFT + column * cell, TOP + row * cell))
    image.save(options.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--student", action="append", help="what asdm prune is told, in one word")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=5)
    parser.add_argument("--size", type=int, default=192, help="of a picture on the sheet")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.prompt = options.prompt or PROMPTS
    with tempfile.TemporaryDirectory() as folder:
        rows = [("the whole model", draw_row(options, Path(folder), options.model))]
        for student in options.student or STUDENTS:
            model, left = light(options, Path(folder), student)
            rows.append((f"{student.replace('--', '')}: {100 * left:.0f} % of a step's GMAC", draw_row(options, Path(folder), model)))
    sheet(options, rows)


if __name__ == "__main__":
    main()
