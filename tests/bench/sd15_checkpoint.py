"""A checkpoint of the Stable Diffusion 1.5 shape with random weights, which the benchmarks share."""
import sys
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parent.parent.parent / "deploy" / "models" / "scenes-256" / "tokenizer"
UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280])
VAE = dict(sample_size=512, block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4,
           scaling_factor=0.18215)
TEXT = dict(hidden_size=768, heads=12, layers=12, act="quick_gelu")


def make(cache):
    """The directory below `cache`; written once: fp16 weights (2 GB), the demo tokenizer."""
    directory = cache / "sd15-random"
    if (directory / "complete").exists():
        return directory
    import transformers
    import zoo_models as models

    print("writing a checkpoint of 2 GB ...", file=sys.stderr)
    models.save_tokenizer(TOKENIZER, directory / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory / "tokenizer")
    weights = "diffusion_pytorch_model.safetensors"
    models.save_component(models.build_text(TEXT, tokenizer, 3, "F16"), directory / "text_encoder", "model.safetensors", "F16")
    models.save_component(models.build_vae(VAE, 2, "F16"), directory / "vae", weights, "F16")
    models.save_component(models.build_unet(UNET, 1, "F16"), directory / "unet", weights, "F16")
    models.write_json(directory / "scheduler" / "scheduler_config.json", models.SD15_SCHEDULER)
    models.save_index(directory, "PNDMScheduler")
    (directory / "complete").touch()
    return directory
