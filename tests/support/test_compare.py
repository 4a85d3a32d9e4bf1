"""The bounds must let the reference itself pass and catch what is just outside."""

import json

import numpy as np
import pytest

import compare
import tensorfile
import pictures


def cases(golden_dir):
    names = sorted(path.stem for path in golden_dir.glob("*.json"))
    assert len(names) == 12
    return names


def test_goldens_pass_against_themselves(golden_dir):
    for name in cases(golden_dir):
        tensors = tensorfile.read(golden_dir / f"{name}.safetensors")
        picture = pictures.read_rgb(golden_dir / f"{name}.png")
        request = json.loads((golden_dir / f"{name}.json").read_text())
        assert picture.shape == (request["height"], request["width"], 3)
        for key in ("latents", "unet_out", "prompt_embeds", "negative_prompt_embeds"):
            compare.check_rel_l2(tensors[key], tensors[key].copy(), compare.STAGE_REL_L2_MAX, key)
        compare.check_picture(picture, picture.copy(), name)
        compare.check_ids(tensors["input_ids"], tensors["input_ids"], name)
        assert tensors["input_ids"].dtype == np.int32 and tensors["input_ids"].shape == (1, 77)


@pytest.mark.parametrize("bound", [compare.STAGE_REL_L2_MAX, compare.LATENTS_REL_L2_MAX])
def test_relative_error_just_outside_fails(golden_dir, bound):
    latents = tensorfile.read(golden_dir / "t2i-euler.safetensors")["latents"].astype(np.float64)
    noise = np.random.default_rng(1).standard_normal(latents.shape)
    noise *= np.linalg.norm(latents) / np.linalg.norm(noise)
    compare.check_rel_l2(latents + 0.9 * bound * noise, latents, bound, "inside")
    with pytest.raises(AssertionError, match="relative L2"):
        compare.check_rel_l2(latents + 1.1 * bound * noise, latents, bound, "outside")


def test_wrong_shapes_and_nan_fail(golden_dir):
    latents = tensorfile.read(golden_dir / "t2i-euler.safetensors")["latents"]
    with pytest.raises(AssertionError, match="shape"):
        compare.check_rel_l2(latents[0], latents, 1e-3, "shape")
    broken = latents.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(AssertionError, match="not finite"):
        compare.check_rel_l2(broken, latents, 1e-3, "nan")
    with pytest.raises(AssertionError):
        compare.check_rel_l2(latents.transpose(0, 1, 3, 2), latents, 1e-3, "transposed")


def test_picture_bounds(golden_dir):
    want = pictures.read_rgb(golden_dir / "t2i-euler.png")
    one = want.copy()
    one[5, 6, 1] ^= 2  # a single channel, by 2: allowed
    compare.check_picture(one, want, "one channel by 2")
    three = want.copy()
    three[5, 6, 1] = (int(want[5, 6, 1]) + 3) if want[5, 6, 1] < 200 else int(want[5, 6, 1]) - 3
    with pytest.raises(AssertionError, match="largest difference 3"):
        compare.check_picture(three, want, "one channel by 3")
    everywhere = np.where(want > 100, want - 1, want + 1).astype(np.uint8)
    with pytest.raises(AssertionError, match="mean 1.0"):
        compare.check_picture(everywhere, want, "all by 1")


def test_psnr_bound(golden_dir):
    want = pictures.read_rgb(golden_dir / "t2i-euler.png")
    rng = np.random.default_rng(2)
    for deviation, passes in ((5.0, True), (14.0, False)):  # 255 / sqrt(1000) = 8.06 is 30 dB
        got = np.clip(want + rng.normal(0, deviation, want.shape), 0, 255).astype(np.uint8)
        if passes:
            compare.check_psnr(got, want, "near")
        else:
            with pytest.raises(AssertionError, match="PSNR"):
                compare.check_psnr(got, want, "far")


def test_ids_differ_in_one(golden_dir):
    ids = tensorfile.read(golden_dir / "t2i-euler.safetensors")["input_ids"]
    other = ids.copy()
    other[0, 3] += 1
    with pytest.raises(AssertionError, match="token ids differ"):
        compare.check_ids(other, ids, "ids")
