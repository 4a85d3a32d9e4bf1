"""The zoo's one-file checkpoints must be what diffusers' own converter takes for the original format."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_diffusers_reads_the_one_file_checkpoint_back(zoo, version):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as reader
    from safetensors.torch import load_file

    state = load_file(zoo / "models" / f"{version}.safetensors")
    folder = zoo / "models" / version
    unet = dict(UNet2DConditionModel.load_config(folder / "unet"))
    vae = dict(AutoencoderKL.load_config(folder / "vae"))
    for got, part in ((reader.convert_ldm_unet_checkpoint(dict(state), unet), "unet"),
                      (reader.convert_ldm_vae_checkpoint(dict(state), vae), "vae")):
        want = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        assert set(got) == set(want), set(got) ^ set(want)
        for name, tensor in want.items():
            other = got[name]
            assert torch.equal(other.reshape(tensor.shape), tensor), name


def test_open_clip_names(zoo):
    """Fused Q, K, V in this order, one layer more than the text encoder has."""
    from safetensors.torch import load_file

    state = load_file(zoo / "models" / "sd21.safetensors")
    text = load_file(zoo / "models" / "sd21" / "text_encoder" / "model.safetensors")
    prefix = "cond_stage_model.model.transformer.resblocks."
    layers = {int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)}
    used = {int(name.split(".")[2]) for name in text if name.startswith("encoder.layers.")}
    assert layers == used | {len(used)}
    fused = state[f"{prefix}1.attn.in_proj_weight"].chunk(3)
    for part, name in zip(fused, "qkv"):
        assert torch.equal(part, text[f"encoder.layers.1.self_attn.{name}_proj.weight"])
