"""Plan files and the options of kernels' choice, as far as a machine without a GPU shows them."""
import json

import pytest

PLAN = {"asdm_plan_file": 1,
        "plans": [{"gpu": "NVIDIA X1", "driver": "1.2", "libraries": "", "asdm": "0.1.0", "dtype": "fp16",
                   "batch_invariant": True, "choices": {"conv": {"2": "wgmma 160/1/1/1"}}}]}
SMALL = ["--prompt", "a house", "--width", "64", "--height", "64", "--steps", "1", "--sampler", "euler", "--device",
         "cpu", "--dtype", "fp32"]


@pytest.mark.parametrize("arguments, words", [
    ([], "a model or --arch: one of them is needed"),
    (["m"], "--plan: is needed"),
    (["m", "--plan", "p", "--rows", "1,,2"], "--rows: must be up to 16 whole numbers"),
    (["m", "--plan", "p", "--rows", "0"], "--rows: must be up to 16 whole numbers"),
    (["m", "--plan", "p", "--width", "65"], "--width, --height: must be multiples of 8"),
    (["m", "--plan", "p", "--batch-invariant", "no"], "--batch-invariant: must be on or off, is \"no\""),
])
def test_wrong_usage(asdm, arguments, words):
    done = asdm("tune", *arguments)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_tuning_needs_a_gpu(asdm, models_dir, tmp_path):
    done = asdm("tune", models_dir, "--device", "cpu", "--plan", tmp_path / "plan.json")
    assert done.returncode == 1 and 'device "cpu" has no choices to measure' in done.stderr, done.stderr
    assert not (tmp_path / "plan.json").exists()


def test_a_foreign_plan_is_told_and_not_used(asdm, models_dir, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    pictures = []
    for number, more in enumerate([[], ["--plan", plan], ["--batch-invariant", "off"], ["--batch-invariant", "on"]]):
        out = tmp_path / f"{number}.png"
        done = asdm("generate", "--model", models_dir, "--output", out, *SMALL, *more)
        assert done.returncode == 0, done.stderr
        assert ("the built-in kernels are used: the file has no plan for device cpu" in done.stderr) == (number == 1)
        assert ("it has: NVIDIA X1, driver 1.2, asdm 0.1.0, fp16, batch-invariant on" in done.stderr) == (number == 1)
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == 1


@pytest.mark.parametrize("text, words", [
    (None, "plan.json"),
    ('{"asdm_plan_file": 1,\n "plans": [{"gpu"}]}', "line 2"),
    (json.dumps(PLAN).replace("true", "1"), "plans[0].batch_invariant: must be a boolean, is a number"),
])
def test_a_damaged_plan_is_refused(asdm, models_dir, tmp_path, text, words):
    plan = tmp_path / "plan.json"
    if text:
        plan.write_text(text)
    done = asdm("generate", "--model", models_dir, "--output", tmp_path / "out.png", "--plan", plan, *SMALL)
    assert done.returncode == 1 and words in done.stderr and str(plan) in done.stderr, done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("device, words", [("cpu", "fp32 or bf16, not in tf32"), ("ref", "fp32 only")])
def test_tf32_is_for_gpus(asdm, models_dir, device, words):
    done = asdm("bench", "unet", "--model", models_dir, "--device", device, "--dtype", "tf32")
    assert done.returncode == 1 and words in done.stderr, done.stderr
