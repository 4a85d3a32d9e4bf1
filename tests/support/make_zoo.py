#!/usr/bin/env python3
"""Builds small checkpoints of every architecture and, with diffusers, what each must give.

usage: make_zoo.py TOKENIZER_DIR OUT_DIR [--only SUBSTRING] [--force]

TOKENIZER_DIR is the demo checkpoint's tokenizer. OUT_DIR receives models/NAME (diffusers layout), models/NAME.safetensors
(one file) and cases/NAME.{json,safetensors,png} as in tests/golden/data, "model" naming the directory under models/. A
case with "may_refuse" has a configuration key that asdm may decline by name. Nothing is done when OUT_DIR was made by
the same sources. Two cores need about a minute.
"""

import argparse
import shutil
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import diffusers
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

import pictures
import tensorfile
import zoo_cases
import zoo_models as models
import zoo_original
import zoo_stamp
from zoo_reference import Reference

INIT_SIZES = {"init-64.png": (64, 64), "init-72x56.png": (72, 56), "init-200x150.png": (200, 150), "init-40x30.png": (40, 30)}


class Zoo:
    def __init__(self, tokenizer_directory, out, only):
        self.tokenizer_directory, self.out, self.only = tokenizer_directory, out, only
        self.models, self.cases = out / "models", out / "cases"
        self.cases.mkdir(parents=True)
        self.built, self.left_out = {}, []
        for name, (width, height) in INIT_SIZES.items():
            Image.fromarray(pictures.scene(width, height)).save(self.cases / name)

    def parts(self, name):
        """(unet, vae, text, tokenizer, scheduler configuration) of a base model, saved when first asked for."""
        if name in self.built:
            return self.built[name]
        spec, directory = models.MODELS[name], self.models / name
        seed, dtype = 1000 + 10 * list(models.MODELS).index(name), spec["dtype"]
        models.save_tokenizer(self.tokenizer_directory, directory / "tokenizer", spec.get("pad"))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(directory / "tokenizer")
        unet = models.build_unet(spec["unet"], seed, dtype)
        vae = models.build_vae(spec["vae"], seed + 2, dtype)
        text = models.build_text(spec["text"], tokenizer, seed + 4, dtype)
        models.save_component(unet, directory / "unet", "diffusion_pytorch_model.safetensors", dtype)
        models.save_component(vae, directory / "vae", "diffusion_pytorch_model.safetensors", dtype)
        models.save_component(text, directory / "text_encoder", "model.safetensors", dtype, spec.get("prefix", ""))
        models.write_json(directory / "scheduler" / "scheduler_config.json", spec["scheduler"])
        models.save_index(directory, spec["scheduler"]["_class_name"])
        self.built[name] = (unet, vae, text, tokenizer, spec["scheduler"])
        return self.built[name]

    def add(self, case, parts, may_refuse=None):
        """Computes and stores one case."""
        if self.only and self.only not in case["name"]:
            return
        case = dict(case)
        try:
            tensors, picture = Reference(*parts).run(case, self.cases)
        except ImportError as error:  # lms needs scipy
            self.left_out.append([case["name"], str(error).strip().splitlines()[0]])
            return
        if may_refuse:
            case["may_refuse"] = may_refuse
        tensorfile.write(self.cases / f"{case['name']}.safetensors", tensors)
        Image.fromarray(picture).save(self.cases / f"{case['name']}.png")
        models.write_json(self.cases / f"{case['name']}.json", case)

    def add_plain(self):
        for case in zoo_cases.architecture_cases() + zoo_cases.sampler_cases():
            self.add(case, self.parts(case["model"]))

    def add_one_file(self):
        for version in ("sd15", "sd21"):
            unet, vae, text, _, _ = self.parts(version)
            dtype = models.DTYPES[models.MODELS[version]["dtype"]]
            state = zoo_original.one_file(unet, vae, text, version)
            state = {key: value if not value.is_floating_point() else value.to(dtype) for key, value in state.items()}
            save_file(state, str(self.models / f"{version}.safetensors"), metadata={"format": "pt"})
        for case in zoo_cases.one_file_cases():
            self.add(case, self.parts(case["model"]))

    def add_text_prefix(self):
        """The same checkpoint with the other spelling of the text encoder's keys."""
        unet, vae, text, tokenizer, scheduler = self.parts("sd15")
        directory = self.models / "sd15-prefix"
        models.save_component(text, directory / "text_encoder", "model.safetensors", "F32", "text_model.")
        models.link_parts(directory, self.models / "sd15", {"text_encoder"})
        self.add(zoo_cases.case("sd15-prefix", "sd15-prefix", stages=True), (unet, vae, text, tokenizer, scheduler))

    def variant(self, part, key, value, build, save):
        """A model that differs from sd15 in one key of one part."""
        field = zoo_cases.own_key(key)
        name = f"{part}-{key.replace('@', '-')}"
        parts = dict(zip(("unet", "vae", "text_encoder", "tokenizer", "scheduler"), self.parts("sd15")))
        directory = self.models / name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts[part] = build(field, value)
            save(parts[part], directory / part)
            models.link_parts(directory, self.models / "sd15", {part})
            self.add(zoo_cases.case(name, name, stages=True), tuple(parts.values()), may_refuse=field)
        except (ValueError, NotImplementedError, RuntimeError, TypeError) as error:  # diffusers cannot
            self.left_out.append([name, f"{type(error).__name__}: {error}"])
            shutil.rmtree(directory, ignore_errors=True)

    def add_variants(self):
        tokenizer = self.parts("sd15")[3]
        weights = "diffusion_pytorch_model.safetensors"
        for key, value in zoo_cases.UNET_VARIANTS.items():
            def build(field, value):
                config = {**models.SD15_UNET, field: value}
                if field == "down_block_types":  # keep the two sides alike
                    config["up_block_types"] = [kind.replace("Down", "Up") for kind in reversed(value)]
                return models.build_unet(config, 50, "F16")
            self.variant("unet", key, value, build, lambda part, where: models.save_component(part, where, weights, "F16"))
        for key, value in zoo_cases.VAE_VARIANTS.items():
            self.variant("vae", key, value, lambda field, value: models.build_vae({**models.VAE, field: value}, 60, "F16"),
                         lambda part, where: models.save_component(part, where, weights, "F16"))
        names = {"hidden_act": "act", "num_attention_heads": "heads"}
        for key, value in zoo_cases.TEXT_VARIANTS.items():
            self.variant("text_encoder", key, value,
                         lambda field, value: models.build_text(
                             {**models.SD15_TEXT, names.get(field, field): value}, tokenizer, 70, "F16"),
                         lambda part, where: models.save_component(part, where, "model.safetensors", "F16"))

    def add_scheduler_variants(self):
        for key, value, sampler in zoo_cases.SCHEDULER_VARIANTS:
            parts = self.parts("sd15")
            shown = "list" if isinstance(value, list) else value
            name = f"scheduler-{key}-{shown}-{zoo_cases.slug(sampler)}"
            config = {**parts[4], key: value}
            directory = self.models / name
            models.write_json(directory / "scheduler" / "scheduler_config.json", config)
            models.link_parts(directory, self.models / "sd15", {"scheduler"})
            case = zoo_cases.case(name, name, sampler=sampler, steps=6, seed=41)
            try:
                self.add(case, (*parts[:4], config), may_refuse=key)
            except (ValueError, NotImplementedError, AssertionError) as error:
                self.left_out.append([name, f"{type(error).__name__}: {error}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="cases whose name contains this; the stamp is not written")
    parser.add_argument("--force", action="store_true", help="build even if up to date")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    if not options.force and zoo_stamp.is_current(options.out, options.tokenizer):
        return
    if options.out.exists():
        if any(options.out.iterdir()) and not (options.out / "cases").exists():
            sys.exit(f"{options.out} is not empty and not a zoo; choose another directory")
        shutil.rmtree(options.out)
    start = time.monotonic()
    torch.set_num_threads(2)
    zoo = Zoo(options.tokenizer, options.out, options.only)
    for step in (zoo.add_plain, zoo.add_one_file, zoo.add_text_prefix, zoo.add_variants, zoo.add_scheduler_variants):
        step()
    count = len(list(zoo.cases.glob("*.json")))
    if not options.only:
        made_by = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
        models.write_json(options.out / "stamp.json", {
            "stamp": zoo_stamp.digest(options.tokenizer), "cases": count, "left_out": zoo.left_out, "made_by": made_by})
    for name, why in zoo.left_out:
        print(f"left out: {name}: {why}", file=sys.stderr)
    print(f"{count} cases in {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
