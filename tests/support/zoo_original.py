"""One-file checkpoints: the names of the original Stable Diffusion code from the names of diffusers.

The original numbers its UNet blocks through (`input_blocks.N`, `output_blocks.N`), keeps 1x1 convolutions where
diffusers has linear layers in the VAE's attention, and in 2.x holds OpenCLIP's text encoder with fused Q/K/V and one
layer more than is used.
"""

import re

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def resnet_tail(tail, table):
    head, _, rest = tail.partition(".")
    return f"{table[head]}.{rest}"


def unet_name(name, layers):
    """Original name of a UNet tensor; `layers` resnets per down stage (one more per up stage)."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if match:
        kind, index, tail = match[1], int(match[2]), match[3]
        if kind == "attentions":
            return f"middle_block.1.{tail}"
        return f"middle_block.{2 * index}.{resnet_tail(tail, RESNET)}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if match:
        side, stage, kind, layer, tail = match[1], int(match[2]), match[3], int(match[4]), match[5]
        where = f"input_blocks.{1 + stage * (layers + 1) + layer}" if side == "down" else (
            f"output_blocks.{stage * (layers + 1) + layer}")
        return f"{where}.1.{tail}" if kind == "attentions" else f"{where}.0.{resnet_tail(tail, RESNET)}"
    match = re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name)
    if match:
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    match = re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", name)
    if match:
        stage = int(match[1])
        position = 1 if stage == 0 else 2  # behind the attention, where the stage has one
        return f"output_blocks.{stage * (layers + 1) + layers}.{position}.conv.{match[2]}"
    raise KeyError(name)


VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_name(name, stages):
    """(original name, whether the tensor becomes a 1x1 convolution) of a VAE tensor."""
    side, _, rest = name.partition(".")
    if side in ("quant_conv", "post_quant_conv"):
        return name, False
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest)
    if match and match[1] == "resnets":
        return f"{side}.mid.block_{int(match[2]) + 1}.{resnet_tail(match[3], VAE_RESNET)}", False
    if match:
        for ours, theirs in VAE_ATTENTION.items():
            if match[3].startswith(ours + "."):
                tail = match[3][len(ours) + 1 :]
                return f"{side}.mid.attn_1.{theirs}.{tail}", theirs != "norm" and tail == "weight"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest)
    if match:
        stage = int(match[2]) if match[1] == "down" else stages - 1 - int(match[2])
        if match[3] == "resnets":
            return f"{side}.{match[1]}.{stage}.block.{match[4]}.{resnet_tail(match[5], VAE_RESNET)}", False
        return f"{side}.{match[1]}.{stage}.{match[3][:-3]}e.{match[5]}", False
    return f"{side}.{rest.replace('conv_norm_out', 'norm_out')}", False


CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip(state, layers, generator):
    """OpenCLIP's names; with one layer more at the end, of random weights, that nobody may use."""
    made = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    width = made["ln_final.weight"].shape[0]
    for layer in range(layers):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            made[f"{theirs}attn.in_proj_{kind}"] = torch.cat(
                [state[f"{ours}self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")])
            for name, other in CLIP_LAYER.items():
                made[f"{theirs}{other}.{kind}"] = state[f"{ours}{name}.{kind}"]
    first = "transformer.resblocks.0."
    for name in [key for key in made if key.startswith(first)]:
        other = f"transformer.resblocks.{layers}.{name[len(first):]}"
        made[other] = torch.randn(made[name].shape, generator=generator).to(made[name].dtype)
    dtype = made["ln_final.weight"].dtype
    made["text_projection"] = torch.randn(width, width, generator=generator).to(dtype)
    made["logit_scale"] = torch.tensor(4.6).to(dtype)
    return {f"cond_stage_model.model.{key}": value for key, value in made.items()}


def one_file(unet, vae, text, version):
    """All tensors of a one-file checkpoint ("sd15" or "sd21"), with the extra ones that such files carry."""
    generator = torch.Generator().manual_seed(5)
    layers = unet.config.layers_per_block
    made = {f"model.diffusion_model.{unet_name(key, layers)}": value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        name, is_convolution = vae_name(key, len(vae.config.block_out_channels))
        made[f"first_stage_model.{name}"] = value[:, :, None, None] if is_convolution else value
    state = {key.removeprefix("text_model."): value for key, value in text.state_dict().items()}
    if version == "sd21":
        made.update(open_clip(state, text.config.num_hidden_layers, generator))
    else:
        made.update({f"cond_stage_model.transformer.text_model.{key}": value for key, value in state.items()})
        made["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    made["betas"] = betas.float()
    made["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    made["model_ema.decay"] = torch.tensor(0.9999)
    made["model_ema.num_updates"] = torch.tensor(470000, dtype=torch.int32)
    return {key: value.contiguous() for key, value in made.items()}
