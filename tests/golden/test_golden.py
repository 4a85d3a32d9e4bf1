"""The demo checkpoint against diffusers: twelve requests computed by diffusers in fp32 (tests/golden/data)."""

import json
import subprocess
from pathlib import Path

import pytest

import compare
import golden_requests
import pictures
import tensorfile

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.stem for path in DATA.glob("*.json"))
REF_QUICK = ("t2i-euler", "t2i-noguide")  # ref is slow by design: seconds for one UNet call


def load(name):
    return json.loads((DATA / f"{name}.json").read_text()), tensorfile.read(DATA / f"{name}.safetensors")


def test_all_cases_are_there():
    assert len(NAMES) == 12


def encode(build_dir, tokenizer, prompts):
    """Ids of each prompt by the tokenize program."""
    program = build_dir / "tests" / "tokenize"
    texts = [prompt.encode() for prompt in prompts]
    packed = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    done = subprocess.run([program, tokenizer, "77"], input=packed, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [list(map(int, line.split()[1:])) for line in done.stdout.decode().splitlines()]


def test_token_ids(build_dir, models_dir):
    cases = [load(name) for name in NAMES]
    got = encode(build_dir, models_dir / "tokenizer", [request["prompt"] for request, _ in cases])
    assert len(got) == len(cases)
    for ids, (request, tensors) in zip(got, cases):
        compare.check_ids(ids, tensors["input_ids"], request["name"])


@pytest.mark.parametrize("name", NAMES)
def test_stages(name, device, stages, models_dir, request):
    """Prompt embeddings from the stored ids, the first UNet output from the stored inputs, the decoder from the latents."""
    if device == "ref" and request.config.getoption("--quick") and name not in REF_QUICK:
        pytest.skip("--quick")
    case, want = load(name)
    inputs = golden_requests.stage_inputs(want)
    if device == "ref":
        inputs.pop("latents")  # the whole decoder in plain C takes long; the zoo covers it
    got = stages(models_dir, device, "fp32", inputs)
    compare.check_rel_l2(got["prompt_embeds"], want["prompt_embeds"], compare.STAGE_REL_L2_MAX, f"{name}: prompt_embeds")
    compare.check_rel_l2(got["unet_out"], want["unet_out"], compare.STAGE_REL_L2_MAX, f"{name}: unet_out")
    if "image" in got:
        rgb = ((got["image"][0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 0) * 255).round().astype("uint8")
        compare.check_picture(rgb, pictures.read_rgb(DATA / f"{name}.png"), f"{name}: decoded stored latents")


def test_negative_prompt_embeddings(stages, models_dir, build_dir, cpu):
    case, want = load("t2i-ddim-negative")
    (ids,) = encode(build_dir, models_dir / "tokenizer", [case["negative_prompt"]])
    got = stages(models_dir, cpu, "fp32", {"input_ids": want["input_ids"] * 0 + ids})
    compare.check_rel_l2(got["prompt_embeds"], want["negative_prompt_embeds"], compare.STAGE_REL_L2_MAX, "negative")


def generate(asdm, models_dir, name, device, dtype, folder, timeout=300):
    """(latents, picture) of a whole run, kept for the session: the bf16 test compares with the fp32 picture."""
    case, _ = load(name)
    picture, latents = folder / f"{name}.png", folder / f"{name}.safetensors"
    asdm.generate(models_dir, picture, *golden_requests.options(case, DATA), "--device", device, "--dtype", dtype,
                  "--save-latents", latents, timeout=timeout)
    return tensorfile.read(latents), pictures.read_rgb(picture)


def check_run(name, latents, picture):
    _, want = load(name)
    assert list(latents) == ["latents"] and latents["latents"].dtype == "float32"
    compare.check_rel_l2(latents["latents"], want["latents"], compare.LATENTS_REL_L2_MAX, f"{name}: latents")
    compare.check_picture(picture, pictures.read_rgb(DATA / f"{name}.png"), name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("name", NAMES)
def test_whole_run(name, asdm, models_dir, folder, fast_device):
    check_run(name, *generate(asdm, models_dir, name, fast_device, "fp32", folder))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_16_bits(name, dtype, asdm, models_dir, tmp_path, fast_device, request):
    """Against the fp32 picture; diffusers' is it within two steps of 255, see test_whole_run."""
    if fast_device == "cpu":
        if dtype == "fp16":
            pytest.skip("the CPU back end has no fp16")
        request.getfixturevalue("bf16")
    _, picture = generate(asdm, models_dir, name, fast_device, dtype, tmp_path)
    compare.check_psnr(picture, pictures.read_rgb(DATA / f"{name}.png"), f"{name}: {dtype}")


@pytest.mark.slow
def test_whole_run_on_ref(asdm, models_dir, tmp_path):
    check_run("t2i-noguide", *generate(asdm, models_dir, "t2i-noguide", "ref", "fp32", tmp_path, timeout=1800))
