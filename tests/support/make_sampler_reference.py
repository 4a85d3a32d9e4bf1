#!/usr/bin/env python3
"""Writes what diffusers' schedulers give for many configurations, for tests/unit/test_sampler.c.

usage: make_sampler_reference.py > tests/unit/data/sampler_reference.txt

A line "config {...}" holds a scheduler_config.json; the lines after it are runs with it:
    SAMPLER SCHEDULE STEPS STRENGTH ROWS DRAWS SUM_OF_TIMESTEPS LATENT...
STRENGTH -1 is t2i. Runs that diffusers cannot do (it raises, or gives what is not a number) are left out."""
import json
import sys

import numpy as np

import sampler_reference as reference

BASE = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SOLVERS = ("dpm++_2m", "dpm++_2m_sde", "unipc")
SIGMAS = ("euler", "euler_a", "heun", "lms")
ALPHAS = ("ddim", "pndm", "lcm", "ddpm")
ALL = tuple(reference.SAMPLERS)
SHORT = {"num_train_timesteps": 20, "trained_betas": [round(0.01 + 0.02 * i, 4) for i in range(20)]}

# what differs from BASE (None: the key is left out), and for which samplers that matters
VARIANTS = [
    (dict.fromkeys(BASE), ALL),
    ({"timestep_spacing": "linspace"}, ALL),
    ({"timestep_spacing": "trailing"}, ALL),
    ({"steps_offset": 0}, ALL),
    ({"beta_schedule": "linear"}, ALL),
    ({"beta_schedule": "squaredcos_cap_v2"}, ALL),
    ({"num_train_timesteps": 937}, ALL),
    ({"clip_sample": True}, ("ddim", "ddpm", "lcm", "heun", "euler")),
    ({"clip_sample": True, "clip_sample_range": 0.4}, ("ddim", "ddpm", "lcm", "heun")),
    ({"set_alpha_to_one": True}, ("ddim", "pndm", "lcm")),
    ({"skip_prk_steps": False}, ("pndm",)),
    ({"rescale_betas_zero_snr": True}, ALL),
    ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, ALPHAS + SOLVERS),
    ({"variance_type": "fixed_large"}, ("ddpm",)),
    ({"variance_type": "fixed_small_log"}, ("ddpm",)),
    ({"original_inference_steps": 40, "timestep_scaling": 0.01}, ("lcm",)),
    ({"use_karras_sigmas": True}, SIGMAS + SOLVERS),
    ({"use_exponential_sigmas": True}, SIGMAS + SOLVERS),
    ({"use_lu_lambdas": True}, SOLVERS),
    ({"final_sigmas_type": "sigma_min"}, ("euler", "lms") + SOLVERS),
    ({"sigma_min": 0.06, "sigma_max": 9.0}, SIGMAS + SOLVERS),
    ({"sigma_min": 0.06, "final_sigmas_type": "sigma_min"}, SOLVERS),
    ({"interpolation_type": "log_linear"}, ("euler", "heun")),
    ({"timestep_type": "continuous"}, ("euler", "lms")),
    ({"timestep_type": "continuous", "interpolation_type": "log_linear"}, ("euler",)),
    ({"solver_order": 1}, SOLVERS),
    ({"solver_order": 3}, SOLVERS),
    ({"solver_order": 4}, ("unipc",)),
    ({"solver_type": "heun"}, SOLVERS),
    ({"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, SOLVERS),
    ({"solver_order": 3, "solver_type": "bh1", "lower_order_final": False, "final_sigmas_type": "sigma_min"}, SOLVERS),
    ({"solver_order": 3, "euler_at_final": True, "final_sigmas_type": "sigma_min"}, SOLVERS),
    ({"predict_x0": False, "final_sigmas_type": "sigma_min"}, ("unipc",)),
    ({"disable_corrector": [0, 2]}, ("unipc",)),
    ({"lambda_min_clipped": -1.5}, SOLVERS),
    (SHORT, ALL),
]


def schedules(sampler):
    if sampler in reference.SPACED:
        return ("default", "karras", "exponential", "sgm_uniform")
    return ("default",) if sampler == "lcm" else ("default", "sgm_uniform")


def keeps_digits(config, sampler, schedule, strength):
    """False for runs in which diffusers' own float32 loses more than the test allows: PNDM's Runge-Kutta start in i2i
    goes up the schedule first, and where sigmas are in the thousands, terms cancel."""
    if sampler == "pndm" and not config.get("skip_prk_steps", False) and 0 <= strength < 1:
        return False
    steep = config.get("beta_schedule") == "squaredcos_cap_v2" or config.get("rescale_betas_zero_snr")
    if steep and sampler in SIGMAS + ("pndm",) and schedule == "sgm_uniform":
        return False
    return True


def write_runs(config, samplers, all_steps, strengths):
    print("config", json.dumps(config, separators=(",", ":")))
    for sampler in samplers:
        for schedule in schedules(sampler):
            for steps in all_steps:
                for strength in strengths:
                    if not keeps_digits(config, sampler, schedule, strength):
                        continue
                    try:
                        latents, timesteps, draws = reference.run(config, sampler, schedule, steps, strength)
                    except (ValueError, IndexError, AssertionError, RuntimeError):
                        continue
                    if not np.all(np.isfinite(latents)):
                        continue
                    numbers = " ".join(f"{x:.6g}" for x in [sum(timesteps), *latents])
                    print(sampler, schedule, steps, f"{strength:g}", len(timesteps), draws, numbers)


def main():
    for prediction in ("epsilon", "v_prediction"):
        base = BASE | {"prediction_type": prediction}
        write_runs(base, ALL, (1, 2, 3, 4, 10, 25), (-1, 0.3, 0.75, 1))
        write_runs(base, ALL, (50,), (-1,))
        for index, (changes, samplers) in enumerate(VARIANTS):
            config = {key: value for key, value in (base | changes).items() if value is not None}
            config["prediction_type"] = prediction
            steps = (6, 15) if prediction == "epsilon" else (14,)
            write_runs(config, samplers, steps, (-1, 0.6) if index % 2 else (-1, 0.5))


if __name__ == "__main__":
    sys.exit(main())
