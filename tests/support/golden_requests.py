"""Turns a stored request (tests/golden/data/*.json, the zoo's cases) into asdm's options."""


def options(case, folder):
    made = ["--prompt", case["prompt"], "--steps", case["steps"], "--sampler", case["sampler"],
            f"--guidance-scale={case['guidance_scale']}", "--seed", case["seed"], "--rng", "torch",
            "--width", case["width"], "--height", case["height"]]
    if case.get("negative_prompt"):
        made += ["--negative-prompt", case["negative_prompt"]]
    if case.get("schedule"):
        made += ["--schedule", case["schedule"]]
    if "init_image" in case:
        made += ["--init-image", folder / case["init_image"], "--strength", case["strength"]]
    return made


def stage_inputs(tensors):
    """What the stages program is given for one case."""
    names = ("input_ids", "unet_in", "timestep", "prompt_embeds", "negative_prompt_embeds", "latents", "pixels")
    return {name: tensors[name] for name in names if name in tensors}
