"""Every other architecture against diffusers: small checkpoints with random weights (tests/support/make_zoo.py)."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import compare
import golden_requests
import pictures
import tensorfile


def wanted(zoo, case):
    base = zoo / "cases" / case["name"]
    return tensorfile.read(Path(f"{base}.safetensors")), pictures.read_rgb(Path(f"{base}.png"))  # names have dots of their own


def model_options(zoo, case):
    """(what --model gets, further options) for a directory or a one-file checkpoint."""
    if "load" in case:
        return zoo / "models" / case["load"], ["--tokenizer", zoo / "models" / case["load_tokenizer"]]
    return zoo / "models" / case["model"], []


def run(asdm, zoo, case, folder, device, dtype):
    """(latents, picture), or None where the configuration was refused by name, which "may_refuse" allows."""
    picture, latents = folder / "out.png", folder / "out.safetensors"
    model, further = model_options(zoo, case)
    done = asdm.generate(model, picture, *further, *golden_requests.options(case, zoo / "cases"), "--device", device,
                         "--dtype", dtype, "--save-latents", latents, check="may_refuse" not in case, timeout=300)
    if done.returncode:
        assert done.returncode == 1, f"exit {done.returncode}: {done.stderr}"
        assert case["may_refuse"] in done.stderr, f"refused without naming {case['may_refuse']}:\n{done.stderr}"
        assert not picture.exists() and not latents.exists()
        return None
    return tensorfile.read(latents)["latents"], pictures.read_rgb(picture)


def with_stages(case):
    return case.get("stages") and "load" not in case and "may_refuse" not in case


def test_stages(zoo_case, zoo, stages, device):
    name = zoo_case["name"]
    if device == "ref" and zoo_case["width"] * zoo_case["height"] > 128 * 128:
        pytest.skip("too large for ref")
    want, _ = wanted(zoo, zoo_case)
    got = stages(zoo / "models" / zoo_case["model"], device, "fp32", golden_requests.stage_inputs(want))
    for key in ("prompt_embeds", "unet_out", "image", "moments"):
        compare.check_rel_l2(got[key], want[key], compare.STAGE_REL_L2_MAX, f"{name}: {key}")


test_stages.zoo_filter = with_stages


def test_whole_run(zoo_case, zoo, asdm, tmp_path, cpu):
    """Also the configurations that differ in one key: diffusers' picture, or a refusal that names the key."""
    want, picture = wanted(zoo, zoo_case)
    got = run(asdm, zoo, zoo_case, tmp_path, cpu, "fp32")
    if got:
        compare.check_rel_l2(got[0], want["latents"], compare.LATENTS_REL_L2_MAX, f"{zoo_case['name']}: latents")
        compare.check_picture(got[1], picture, zoo_case["name"])


def test_whole_run_on_ref(zoo_case, zoo, asdm, tmp_path):
    want, picture = wanted(zoo, zoo_case)
    got = run(asdm, zoo, zoo_case, tmp_path, "ref", "fp32")
    compare.check_rel_l2(got[0], want["latents"], compare.LATENTS_REL_L2_MAX, f"{zoo_case['name']}: latents")
    compare.check_picture(got[1], picture, zoo_case["name"])


test_whole_run_on_ref.zoo_filter = lambda case: case["name"] in (
    "sd15-first", "sd21-first", "bk-tiny-first", "sd15-odd", "sd15-i2i-odd", "one-file-sd21", "sd15-euler_a-i2i")


def test_bf16(zoo_case, zoo, asdm, tmp_path, cpu, bf16):
    _, picture = wanted(zoo, zoo_case)
    got = run(asdm, zoo, zoo_case, tmp_path, cpu, "bf16")
    if got:
        compare.check_psnr(got[1], picture, f"{zoo_case['name']}: bf16")


# One step from almost no noise: diffusers itself is below the bound in bf16, because random weights answer to anything.
test_bf16.zoo_filter = lambda case: "1step" not in case["name"] and "stages" in case


def test_token_ids(zoo, build_dir):
    """All prompts at once, with either pad token."""
    for model in ("sd15", "sd21"):
        cases = [json.loads(path.read_text()) for path in sorted((zoo / "cases").glob(f"{model}-*.json"))]
        cases = [case for case in cases if case["model"] == model]
        texts = [case["prompt"].encode() for case in cases]
        packed = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        done = subprocess.run([build_dir / "tests" / "tokenize", zoo / "models" / model / "tokenizer", "77"],
                              input=packed, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert len(lines) == len(cases)
        for line, case in zip(lines, cases):
            want, _ = wanted(zoo, case)
            compare.check_ids(list(map(int, line.split()[1:])), want["input_ids"], case["name"])


def test_pad_token_is_the_tokenizers(zoo):
    """The two families must differ here, or the test above could not see a wrong pad token."""
    ids = [wanted(zoo, {"name": f"{model}-first"})[0]["input_ids"][0, -1] for model in ("sd15", "sd21")]
    assert ids[0] != ids[1]


def test_count_is_single_runs_with_the_next_seeds(zoo, asdm, tmp_path, cpu):
    model = zoo / "models" / "sd15"
    common = ("--rng", "torch", "--device", cpu, "--dtype", "fp32", "--sampler", "euler_a", "--steps", "3")
    asdm.generate(model, tmp_path / "many.png", "--seed", "40", "--count", "3", *common)
    names = ["many.png", "many-1.png", "many-2.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for k, name in enumerate(names):
        asdm.generate(model, tmp_path / "one.png", "--seed", str(40 + k), *common)
        many, one = pictures.read_rgb(tmp_path / name), pictures.read_rgb(tmp_path / "one.png")
        compare.check_picture(many, one, f"picture {k}")
    first, second = (pictures.read_rgb(tmp_path / name) for name in names[:2])
    assert np.abs(first.astype(int) - second).mean() > 2


def test_zoo_covers_what_the_issue_lists(zoo):
    """A zoo that lost cases would pass silently."""
    cases = [json.loads(path.read_text()) for path in (zoo / "cases").glob("*.json")]
    assert len(cases) >= 200
    assert {case["sampler"] for case in cases} == {
        "ddim", "pndm", "euler", "euler_a", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc", "lcm", "ddpm"}
    assert {case.get("schedule", "default") for case in cases} == {"default", "karras", "exponential", "sgm_uniform"}
    models = {case["model"] for case in cases}
    assert models >= {"sd15", "sd21", "sd21-heads", "bk-base", "bk-small", "bk-tiny", "layers-list", "sd15-prefix"}
    assert sum("load" in case for case in cases) == 4
    assert sum("init_image" in case for case in cases) > 20
