"""What diffusers computes for a request: the tensors and the picture, in fp32 on the CPU.

Requests have the keys of the golden files (prompt, sampler, steps, seed, ...), and what is stored has their names.
"""

import warnings

import diffusers
import numpy as np
import torch
from PIL import Image

SAMPLERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
SCHEDULES = {
    "default": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},  # diffusers' documentation, "Schedulers": sgm_uniform
}


def scheduler_for(base, sampler, schedule):
    name, settings = SAMPLERS[sampler]
    return getattr(diffusers, name).from_config(base, **settings, **SCHEDULES[schedule])


class Reference:
    """A diffusers pipeline around the given parts; `scheduler` is the checkpoint's scheduler_config.json."""

    def __init__(self, unet, vae, text, tokenizer, scheduler):
        parts = dict(unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, safety_checker=None,
                     feature_extractor=None, requires_safety_checker=False)
        start = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
        self.t2i = diffusers.StableDiffusionPipeline(scheduler=start, **parts)
        self.i2i = diffusers.StableDiffusionImg2ImgPipeline(scheduler=start, **parts)
        for pipe in (self.t2i, self.i2i):
            pipe.set_progress_bar_config(disable=True)
        # After the pipeline has had its say: it corrects steps_offset other than 1 and clip_sample of old files.
        self.base = dict(self.t2i.scheduler.config)

    @torch.no_grad()
    def run(self, case, directory):
        """(tensors, picture as uint8 array) of a request; `directory` holds its init image."""
        pipe = self.i2i if "init_image" in case else self.t2i
        pipe.scheduler = scheduler_for(self.base, case["sampler"], case.get("schedule", "default"))
        calls = []

        def keep_first(module, inputs, named, output):
            if not calls:
                calls.append((inputs, output))

        hook = pipe.unet.register_forward_hook(keep_first, with_kwargs=True)
        request = dict(
            prompt=case["prompt"],
            negative_prompt=case.get("negative_prompt") or None,
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            generator=torch.Generator("cpu").manual_seed(case["seed"]),
            output_type="latent",
        )
        size = (case["width"], case["height"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "init_image" in case:
                with Image.open(directory / case["init_image"]) as opened:
                    image = opened.convert("RGB")
                if image.size != size:
                    image = image.resize(size, Image.Resampling.LANCZOS)
                latents = pipe(image=image, strength=case["strength"], **request).images
            else:
                latents = pipe(width=size[0], height=size[1], **request).images
        hook.remove()
        inputs, output = calls[0]
        tensors = {
            "latents": latents,
            "unet_in": inputs[0],
            "timestep": torch.as_tensor(inputs[1]).float().reshape(1),
            "unet_out": output[0] if isinstance(output, tuple) else output.sample,
        }
        tensors["prompt_embeds"], tensors["negative_prompt_embeds"] = pipe.encode_prompt(
            case["prompt"], "cpu", 1, True, case.get("negative_prompt") or None)
        tensors["input_ids"] = pipe.tokenizer(
            case["prompt"], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids.int()
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        tensors["image"] = decoded
        if case.get("stages"):
            tensors.update(self.encode(case))
        tensors = {name: value.detach().contiguous().numpy() for name, value in tensors.items()}
        assert all(np.isfinite(value).all() for value in tensors.values()), case["name"]
        picture = ((decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0) * 255).round().byte().numpy()
        return tensors, picture

    def encode(self, case):
        """The VAE encoder's distribution parameters for smooth pixels of the request's size."""
        generator = torch.Generator().manual_seed(case["seed"] + 1)
        coarse = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
        pixels = torch.nn.functional.interpolate(coarse, size=(case["height"], case["width"]), mode="bilinear")
        moments = self.t2i.vae.encode(pixels).latent_dist.parameters
        return {"pixels": pixels, "moments": moments}
