"""The requests of the zoo, and the configurations that a loader must either follow or refuse by name."""

import zoo_models as models

PROMPT = "a small red house on the left in the snow at night"
SCHEDULED = {  # samplers whose diffusers class knows the schedule
    "karras": ("euler", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc"),
    "exponential": ("euler", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc"),
    "sgm_uniform": ("euler", "euler_a", "ddim", "dpm++_2m"),
}
SAMPLERS = ("ddim", "pndm", "euler", "euler_a", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc", "lcm", "ddpm")
STOCHASTIC = ("euler_a", "dpm++_2m_sde", "lcm", "ddpm")


def case(name, model, **changes):
    made = dict(name=name, model=model, prompt=PROMPT, sampler="euler", steps=4, guidance_scale=5.0, seed=17, width=64,
                height=64)
    made.update(changes)
    return made


def slug(sampler):
    return sampler.replace("+", "p")


def architecture_cases():
    made = []
    for name, spec in models.MODELS.items():
        made.append(case(f"{name}-first", name, stages=True, sampler="ddim" if "sd21" in name else "pndm", steps=5))
        made.append(case(f"{name}-odd", name, stages=True, width=72, height=56, seed=3, sampler="dpm++_2m",
                         negative_prompt="in the rain"))
    made.append(case("sd15-wide", "sd15", stages=True, width=104, height=88, sampler="ddim", guidance_scale=7.5))
    made.append(case("sd15-one-cell", "sd15", stages=True, width=8, height=8))
    made.append(case("sd15-strip", "sd15", stages=True, width=256, height=8))
    made.append(case("sd15-large", "sd15", stages=True, width=512, height=384, steps=2))
    made.append(case("sd15-noguide", "sd15", stages=True, guidance_scale=1.0))
    made.append(case("sd15-below-one", "sd15", guidance_scale=0.5))
    made.append(case("sd21-noguide", "sd21", stages=True, guidance_scale=1.0, sampler="euler_a"))
    made.append(case("sd15-empty", "sd15", stages=True, prompt="", negative_prompt="a tree"))
    made.append(case("sd15-long", "sd15", stages=True, prompt="a red house and a blue boat on the sea, " * 30))
    made.append(case("sd15-unicode", "sd15", stages=True, prompt="Ein Häuschen, 日本の家 & l'arbre n°42 — don't!!  \t\n ÉTÉ"))
    made.append(case("sd21-unicode", "sd21", stages=True, prompt="Ünïcödé 🏠 in the SNOW's 3rd, they'll"))
    made.append(case("sd15-seed-0", "sd15", seed=0))
    made.append(case("sd15-seed-large", "sd15", seed=2**32 + 5))
    return made


def sampler_cases():
    made = []
    for model in ("sd15", "sd21"):
        for sampler in SAMPLERS:
            made.append(case(f"{model}-{slug(sampler)}", model, sampler=sampler, steps=6, seed=29))
            made.append(case(f"{model}-{slug(sampler)}-i2i", model, sampler=sampler, steps=8, seed=31,
                             init_image="init-64.png", strength=0.6))
        for schedule, samplers in SCHEDULED.items():
            for sampler in samplers:
                made.append(case(f"{model}-{slug(sampler)}-{schedule}", model, sampler=sampler, schedule=schedule, steps=5,
                                 seed=37))
    for sampler in SAMPLERS:  # one step, and as many as the lists grow long
        made.append(case(f"sd15-{slug(sampler)}-1step", "sd15", sampler=sampler, steps=1))
        made.append(case(f"sd15-{slug(sampler)}-23steps", "sd15", sampler=sampler, steps=23, guidance_scale=3.0))
    made.append(case("sd15-dpmpp_2m-karras-i2i", "sd15", sampler="dpm++_2m", schedule="karras", steps=7,
                     init_image="init-64.png", strength=0.75))
    made.append(case("sd15-i2i-full", "sd15", sampler="ddim", steps=4, init_image="init-64.png", strength=1.0))
    made.append(case("sd15-i2i-weak", "sd15", sampler="euler", steps=10, init_image="init-64.png", strength=0.1))
    made.append(case("sd15-i2i-odd", "sd15", sampler="ddim", steps=6, init_image="init-72x56.png", strength=0.5, width=72,
                     height=56))
    made.append(case("sd15-i2i-shrunk", "sd15", sampler="ddim", steps=6, init_image="init-200x150.png", strength=0.5))
    made.append(case("sd15-i2i-grown", "sd15", sampler="ddim", steps=6, init_image="init-40x30.png", strength=0.5, width=72,
                     height=64))
    made.append(case("sd15-i2i-noguide", "sd15", sampler="euler", steps=6, init_image="init-64.png", strength=0.5,
                     guidance_scale=1.0))
    return made


def one_file_cases():
    made = []
    for version in ("sd15", "sd21"):
        for suffix, changes in (("", {}), ("-odd", dict(width=72, height=56, negative_prompt="in the rain"))):
            made.append(case(f"one-file-{version}{suffix}", version, stages=not suffix, sampler="ddim",
                             load=f"{version}.safetensors", load_tokenizer=f"{version}/tokenizer", **changes))
    return made


# Values that diffusers knows: the picture must be diffusers', or the key be named in a refusal (exit 1).
UNET_VARIANTS = {
    "norm_num_groups": 16,
    "norm_eps": 1e-2,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "center_input_sample": True,
    "mid_block_scale_factor": 2.0,
    "resnet_out_scale_factor": 1.5,
    "act_fn": "gelu",
    "attention_head_dim": 4,
    "transformer_layers_per_block": 2,
    "transformer_layers_per_block@list": [1, 2, 1, 1],
    "upcast_attention": True,
    "time_embedding_dim": 96,
    "time_embedding_act_fn": "silu",
    "timestep_post_act": "silu",
    "conv_in_kernel": 5,
    "conv_out_kernel": 1,
    "cross_attention_norm": "layer_norm",
    "cross_attention_dim": [128, 128, 128, 128],
    "use_linear_projection": True,
    "only_cross_attention": True,
    "mid_block_only_cross_attention": True,
    "resnet_time_scale_shift": "scale_shift",
    "resnet_skip_time_act": True,
    "time_embedding_type": "fourier",
    "attention_type": "gated",
    "downsample_padding": 0,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
}
VAE_VARIANTS = {
    "scaling_factor": 0.5,
    "norm_num_groups": 16,
    "layers_per_block": 3,
    "act_fn": "relu",
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
TEXT_VARIANTS = {"hidden_act": "gelu", "hidden_act@relu": "relu", "layer_norm_eps": 1e-2, "num_attention_heads": 4}
# (key, value, sampler)
SCHEDULER_VARIANTS = (
    ("beta_schedule", "linear", "euler"),
    ("beta_schedule", "squaredcos_cap_v2", "ddim"),
    ("beta_start", 0.002, "ddim"),
    ("beta_end", 0.02, "euler"),
    ("num_train_timesteps", 500, "euler"),
    ("trained_betas", [0.001 + 0.00001 * i for i in range(1000)], "ddim"),
    ("timestep_spacing", "trailing", "ddim"),
    ("timestep_spacing", "linspace", "ddim"),
    ("timestep_spacing", "linspace", "euler"),
    ("timestep_spacing", "linspace", "dpm++_2m"),
    ("timestep_spacing", "leading", "euler"),
    ("timestep_spacing", "trailing", "euler_a"),
    ("timestep_spacing", "trailing", "unipc"),
    ("timestep_spacing", "trailing", "pndm"),
    ("timestep_spacing", "linspace", "heun"),
    ("timestep_spacing", "trailing", "ddpm"),
    ("steps_offset", 0, "ddim"),
    ("steps_offset", 0, "pndm"),
    ("steps_offset", 0, "euler"),
    ("set_alpha_to_one", True, "ddim"),
    ("set_alpha_to_one", True, "pndm"),
    ("skip_prk_steps", False, "pndm"),
    ("clip_sample", True, "ddim"),
    ("clip_sample", True, "ddpm"),
    ("thresholding", True, "ddim"),
    ("thresholding", True, "dpm++_2m"),
    ("prediction_type", "v_prediction", "euler"),
    ("prediction_type", "sample", "ddim"),
    ("rescale_betas_zero_snr", True, "ddim"),
    ("rescale_betas_zero_snr", True, "euler"),
    ("rescale_betas_zero_snr", True, "dpm++_2m"),
    ("use_karras_sigmas", True, "euler"),
    ("use_karras_sigmas", True, "dpm++_2m"),
    ("use_exponential_sigmas", True, "unipc"),
    ("interpolation_type", "log_linear", "euler"),
    ("final_sigmas_type", "sigma_min", "euler"),
    ("final_sigmas_type", "sigma_min", "dpm++_2m"),
    ("solver_order", 3, "dpm++_2m"),
    ("solver_order", 1, "unipc"),
    ("solver_order", 3, "unipc"),
    ("solver_type", "heun", "dpm++_2m"),
    ("lower_order_final", False, "dpm++_2m"),
    ("euler_at_final", True, "dpm++_2m"),
    ("use_lu_lambdas", True, "dpm++_2m"),
    ("lambda_min_clipped", -5.1, "dpm++_2m"),
    ("disable_corrector", [0, 1], "unipc"),
    ("variance_type", "fixed_large", "ddpm"),
    ("timestep_type", "continuous", "euler"),
    ("sigma_min", 0.1, "euler"),
    ("original_inference_steps", 100, "lcm"),
    ("timestep_scaling", 5.0, "lcm"),
)


def own_key(key):
    return key.partition("@")[0]
