"""What diffusers' schedulers do with a small made-up model: the truth that our tables are compared with.

The model is a nonlinear function of the element, its index and the timestep; the noise is a known sequence. Both are
written again in tests/unit/test_sampler.c."""
import contextlib
import warnings

import numpy as np
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, HeunDiscreteScheduler, LCMScheduler, PNDMScheduler,
                       UniPCMultistepScheduler)
from diffusers.schedulers import scheduling_lms_discrete
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.utils import logging

logging.set_verbosity_error()


class Quadrature:
    """Stands in for scipy.integrate where SciPy is not installed: enough points for the cubics that LMS integrates."""

    @staticmethod
    def quad(function, first, last, epsrel=None):
        points, weights = np.polynomial.legendre.leggauss(21)
        first, last = float(first), float(last)
        at = (first + last) / 2 + (last - first) / 2 * points
        return sum(w * float(function(x)) for w, x in zip(weights, at)) * (last - first) / 2, 0.0


if not hasattr(scheduling_lms_discrete, "integrate"):
    scheduling_lms_discrete.integrate = Quadrature

SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "pndm": (PNDMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpm++_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
}
SPACED = {"euler", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc"}  # have Karras and exponential schedules
STOCHASTIC = {"euler_a", "dpm++_2m_sde", "lcm", "ddpm"}
ELEMENTS = 4

_draws = [0]


def noise(draw):
    """Draw number `draw` of the known sequence. float32 [1, ELEMENTS, 1, 1]"""
    at = np.arange(ELEMENTS) + draw * ELEMENTS
    return torch.from_numpy((1.5 * np.sin(12.9898 * at + 0.3)).astype(np.float32)).reshape(1, ELEMENTS, 1, 1)


def image():
    """The clean latents that i2i starts from."""
    return torch.linspace(-1.2, 0.9, ELEMENTS).reshape(1, ELEMENTS, 1, 1)


def model(x, timestep):
    """The made-up model, on its scaled input."""
    x = x.double().flatten().numpy()
    m = 0.8 * np.sin(1.3 * x + 0.002 * float(timestep) + 0.5 * np.arange(ELEMENTS)) + 0.1 * x
    return torch.from_numpy(m.astype(np.float32)).reshape(1, ELEMENTS, 1, 1)


def _draw_noise(shape, **kwargs):
    _draws[0] += 1
    return noise(_draws[0])


@contextlib.contextmanager
def known_noise():
    """Every scheduler's randn_tensor gives the known sequence, from draw 1 on."""
    import importlib

    names = ["ddim", "ddpm", "dpmsolver_multistep", "euler_ancestral_discrete", "euler_discrete", "lcm"]
    modules = [importlib.import_module(f"diffusers.schedulers.scheduling_{name}") for name in names]
    kept = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = _draw_noise
    try:
        yield
    finally:
        for module, function in zip(modules, kept):
            module.randn_tensor = function


def scheduler(config, sampler, schedule, steps):
    """The scheduler of that name made from `config`, with its timesteps set."""
    cls, options = SAMPLERS[sampler]
    options = dict(options)
    if schedule != "default" and sampler in SPACED:
        options["use_karras_sigmas"] = schedule == "karras"
        options["use_exponential_sigmas"] = schedule == "exponential"
    if schedule != "default" and sampler.startswith("dpm"):
        options["use_lu_lambdas"] = False
    if schedule == "sgm_uniform":
        options["timestep_spacing"] = "trailing"
    made = cls.from_config(config, **options)
    made.set_timesteps(steps)
    return made


def run(config, sampler, schedule, steps, strength):
    """Final latents (float64 [ELEMENTS]), timesteps of all evaluations, number of draws. As StableDiffusionPipeline
    (strength below 0) and StableDiffusionImg2ImgPipeline step."""
    warnings.simplefilter("ignore")
    made = scheduler(config, sampler, schedule, steps)
    timesteps = made.timesteps
    if strength < 0:
        latents = noise(0) * made.init_noise_sigma
    else:
        left = min(int(steps * strength), steps)
        begin = max(steps - left, 0) * made.order
        timesteps = timesteps[begin:]
        if hasattr(made, "set_begin_index"):
            made.set_begin_index(begin)
        if len(timesteps) == 0 or strength == 0:
            return image().double().flatten().numpy(), [], 0
        latents = made.add_noise(image(), noise(0), timesteps[:1])
    _draws[0] = 0
    with known_noise():
        for timestep in timesteps:
            output = model(made.scale_model_input(latents, timestep), timestep)
            latents = made.step(output, timestep, latents, return_dict=False)[0]
    return latents.double().flatten().numpy(), [float(t) for t in timesteps], _draws[0]


def follow(table):
    """The same from one of our tables (a dict as sampler_table prints it)."""
    x = table["start_image"] * image().double().flatten().numpy()
    x = (x + table["start_noise"] * noise(0).double().flatten().numpy()).astype(np.float32).astype(np.float64)
    history = [np.zeros(ELEMENTS) for _ in range(table["history_count"])]
    draws = 0
    for row in table["rows"]:
        m = model(torch.from_numpy(x * row["input_scale"]), row["timestep"]).double().flatten().numpy()
        e = row["convert_latents"] * x + row["convert_model"] * m
        if row["clamp"] > 0:
            e = e.clip(-row["clamp"], row["clamp"])
        z = np.zeros(ELEMENTS)
        if row["draws_noise"]:
            draws += 1
            z = noise(draws).double().flatten().numpy()
        seen = [x, m, e, z, *history]
        weigh = lambda weights: sum(w * s for w, s in zip(weights, seen)).astype(np.float32).astype(np.float64)
        x, history = weigh(row["latents"]), [weigh(h["weights"]) for h in row["history"]]
    return x, [row["timestep"] for row in table["rows"]], draws
