"""Reduced-width Stable Diffusion architectures with random weights, saved as diffusers saves checkpoints.

Every figure here is small so that the whole zoo is built in a minute; every structure is one that checkpoints in use
have. Weights are seeded. Norm scales and shifts and all biases are random as well (diffusers starts them at 1 and 0),
so that one left out or put in the wrong place changes the picture.
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

SD_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
SD_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3

# attention_head_dim means the number of heads in SD checkpoints.
SD15_UNET = dict(
    sample_size=8,
    block_out_channels=[32, 64, 64, 64],
    down_block_types=SD_DOWN,
    up_block_types=SD_UP,
    layers_per_block=2,
    cross_attention_dim=128,
    attention_head_dim=8,
)
SD21_UNET = dict(
    sample_size=12,
    block_out_channels=[64, 128, 128, 128],
    down_block_types=SD_DOWN,
    up_block_types=SD_UP,
    layers_per_block=2,
    cross_attention_dim=192,
    attention_head_dim=[1, 2, 2, 2],
    use_linear_projection=True,
)
VAE = dict(block_out_channels=[32, 32, 64, 64], layers_per_block=2, latent_channels=4, scaling_factor=0.18215)
VAE_ONE_LAYER = dict(VAE, block_out_channels=[32, 64, 64, 96], layers_per_block=1, scaling_factor=0.31)
SD15_TEXT = dict(hidden_size=128, heads=2, layers=3, act="quick_gelu")
SD21_TEXT = dict(hidden_size=192, heads=3, layers=3, act="gelu")

SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SD21_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}

BK = dict(layers_per_block=1)
MODELS = {
    "sd15": dict(unet=SD15_UNET, vae=VAE, text=SD15_TEXT, scheduler=SD15_SCHEDULER, dtype="F32"),
    "sd21": dict(unet=SD21_UNET, vae=VAE, text=SD21_TEXT, scheduler=SD21_SCHEDULER, dtype="F16", pad="!"),
    "sd21-heads": dict(
        unet=dict(SD21_UNET, attention_head_dim=[2, 4, 8, 4]),
        vae=VAE_ONE_LAYER,
        text=SD21_TEXT,
        scheduler=SD21_SCHEDULER,
        dtype="BF16",
        pad="!",
    ),
    "bk-base": dict(unet=dict(SD15_UNET, **BK), vae=VAE_ONE_LAYER, text=SD15_TEXT, scheduler=SD15_SCHEDULER, dtype="F16"),
    "bk-small": dict(
        unet=dict(SD15_UNET, mid_block_type=None, **BK),
        vae=VAE,
        text=SD15_TEXT,
        scheduler=SD15_SCHEDULER,
        dtype="BF16",
        prefix="text_model.",
    ),
    "bk-tiny": dict(
        unet=dict(
            SD15_UNET,
            block_out_channels=[32, 64, 96],
            down_block_types=["CrossAttnDownBlock2D"] * 3,
            up_block_types=["CrossAttnUpBlock2D"] * 3,
            mid_block_type=None,
            **BK,
        ),
        vae=VAE_ONE_LAYER,
        text=SD15_TEXT,
        scheduler=SD15_SCHEDULER,
        dtype="F32",
        prefix="text_model.",
    ),
    "layers-list": dict(
        unet=dict(SD15_UNET, layers_per_block=[1, 2, 1, 2]),
        vae=VAE,
        text=SD15_TEXT,
        scheduler=SD15_SCHEDULER,
        dtype="F32",
    ),
    # A student with the 64x64 pair and the mid block removed (the project's own pruned layout).
    "layers-nomid": dict(
        unet=dict(SD15_UNET, layers_per_block=[1, 2, 2, 2], mid_block_type=None),
        vae=VAE,
        text=SD15_TEXT,
        scheduler=SD15_SCHEDULER,
        dtype="F16",
    ),
}


def randomise(model, seed, dtype="F32"):
    """Random norms and biases; all weights rounded to what `dtype` holds, so that the reference uses what is saved."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        is_norm = any(part.startswith(("norm", "layer_norm", "final_layer_norm", "conv_norm", "group_norm"))
                      for part in name.split(".")[:-1])
        noise = torch.randn(weight.shape, generator=generator)
        if is_norm and name.endswith("weight"):
            weight.data.copy_(1 + 0.15 * noise)
        elif name.endswith("bias"):
            weight.data.add_(0.1 * noise)
        weight.data.copy_(weight.data.to(DTYPES[dtype]).float())
    return model.eval()


def build_unet(config, seed, dtype="F32"):
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**config)
    unet.conv_out.weight.data.mul_(2)  # outputs of about 1
    return randomise(unet, seed + 1, dtype)


def build_vae(config, seed, dtype="F32"):
    torch.manual_seed(seed)
    stages = len(config["block_out_channels"])
    config = dict(
        dict(down_block_types=["DownEncoderBlock2D"] * stages, up_block_types=["UpDecoderBlock2D"] * stages, sample_size=64),
        **config,
    )
    return randomise(AutoencoderKL(**config), seed + 1, dtype)


def build_text(spec, tokenizer, seed, dtype="F32"):
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec["hidden_size"],
        intermediate_size=4 * spec["hidden_size"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        hidden_act=spec["act"],
        layer_norm_eps=spec.get("layer_norm_eps", 1e-5),
        projection_dim=spec["hidden_size"],
        # As the published configurations say, wrong as they are: the tokenizer decides.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    text = CLIPTextModel(config)
    text.embeddings.token_embedding.weight.data.mul_(20)
    text.embeddings.position_embedding.weight.data.mul_(20)
    return randomise(text, seed + 1, dtype)


def save_weights(model, path, dtype, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {prefix + key: value.to(DTYPES[dtype]).contiguous() for key, value in model.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})


def save_component(model, directory, file_name, dtype, prefix=""):
    """config.json by the library itself, weights under the names and in the dtype asked for."""
    directory.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_config"):
        model.save_config(directory)
    else:
        model.config.save_pretrained(directory)
    save_weights(model, directory / file_name, dtype, prefix)


def save_tokenizer(source, directory, pad=None):
    """The demo checkpoint's tokenizer, with another pad token where asked for."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    for path in directory.iterdir():
        path.chmod(0o644)
    if pad:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            path = directory / name
            settings = json.loads(path.read_text())
            settings["pad_token"] = pad
            path.write_text(json.dumps(settings, indent=2))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def save_index(directory, scheduler_class):
    write_json(
        directory / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.42.1",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", scheduler_class],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def link_parts(directory, source, own):
    """Links every part of `source` that `own` (names) does not replace into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for part in ("model_index.json", "scheduler", "tokenizer", "text_encoder", "unet", "vae"):
        if part not in own and not (directory / part).exists():
            (directory / part).symlink_to(f"../{source.name}/{part}")
