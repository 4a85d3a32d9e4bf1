"""The bounds of the golden tests, in one place: how far a result may be from the reference.

Pictures are numpy arrays [height, width, 3] of uint8; tensors are numpy arrays of any shape.
"""

import math

import numpy as np

STAGE_REL_L2_MAX = 2e-5  # prompt embeddings, first UNet output, decoded and encoded tensors
LATENTS_REL_L2_MAX = 1e-3  # final latents of a whole run
PNG_CHANNEL_MAX = 2  # steps of 255, any channel of any pixel
PNG_MEAN_MAX = 0.1  # steps of 255, over all channels
BF16_PSNR_MIN = 30.0  # dB, picture in bf16 against the picture in fp32


def rel_l2(got, want):
    """||got - want|| / ||want||, summed in double; infinite where `got` has another shape or is not finite."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return math.inf
    norm = np.linalg.norm(want)
    difference = np.linalg.norm(got - want)
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return float(difference / norm)


def psnr(got, want):
    """Peak signal to noise ratio of two pictures in dB; infinite for equal ones."""
    error = np.mean((got.astype(np.float64) - want.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def check_rel_l2(got, want, bound, what):
    """Raises AssertionError with the figure unless `got` is within `bound` of `want`."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, should be {want.shape}"
    assert np.isfinite(got).all(), f"{what}: has values that are not finite"
    error = rel_l2(got, want)
    assert error <= bound, f"{what}: relative L2 {error:.3e} > {bound:.0e}"
    return error


def check_ids(got, want, what):
    got, want = np.asarray(got).reshape(-1).tolist(), np.asarray(want).reshape(-1).tolist()
    assert got == want, f"{what}: token ids differ:\n got {got}\nwant {want}"


def check_picture(got, want, what):
    """Every channel within PNG_CHANNEL_MAX, the mean difference within PNG_MEAN_MAX."""
    assert got.dtype == np.uint8 and want.dtype == np.uint8
    assert got.shape == want.shape, f"{what}: {got.shape}, should be {want.shape}"
    difference = np.abs(got.astype(np.int16) - want.astype(np.int16))
    worst, mean = int(difference.max()), float(difference.mean())
    assert worst <= PNG_CHANNEL_MAX and mean <= PNG_MEAN_MAX, (
        f"{what}: largest difference {worst} (bound {PNG_CHANNEL_MAX}), mean {mean:.4f} (bound {PNG_MEAN_MAX})"
    )
    return worst, mean


def check_psnr(got, want, what, bound=BF16_PSNR_MIN):
    assert got.shape == want.shape, f"{what}: {got.shape}, should be {want.shape}"
    value = psnr(got, want)
    assert value >= bound, f"{what}: PSNR {value:.2f} dB < {bound} dB"
    return value
