"""PyTorch models of light UNets: diffusers' UNet2DConditionModel with global-regional attention and conditional convolutions
put in as ASDM.md defines them (sections 3 and 4), for comparison. Imported where PyTorch and diffusers are."""
import json
import math
import re
import types

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file


class GriAttention:
    """An attention processor: scores of all tokens and all cells, and a mask, where the engine gathers."""

    def __init__(self, grid, window, pool):
        self.grid, self.window, self.pool = grid, window, pool

    def keys(self, tokens):
        """[rows, heads, tokens, dim] -> tokens and then the cells' means; and how many tokens each stands for."""
        height, width = self.grid
        rows, heads, _, dim = tokens.shape
        tokens = tokens.reshape(rows, heads, height, width, dim)
        means, counts = [], []
        for y in range(0, height, self.pool):
            for x in range(0, width, self.pool):
                cell = tokens[:, :, y:y + self.pool, x:x + self.pool]
                means.append(cell.mean((2, 3)))
                counts.append(cell.shape[2] * cell.shape[3])
        return torch.cat([tokens.flatten(2, 3), torch.stack(means, 2)], 2), counts

    def mask(self, counts):
        """What is added to the scores of [query, key]."""
        height, width = self.grid
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        windows = (y // self.window * width + x // self.window).flatten()
        cells = windows.reshape(height, width)[::self.pool, ::self.pool].flatten()
        inf = torch.tensor(-math.inf)
        local = torch.where(windows[:, None] == windows[None], torch.tensor(0.0), inf)
        globe = torch.where(windows[:, None] != cells[None], torch.tensor(counts).log(), inf)
        return torch.cat([local, globe], 1)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
        def split(x):
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        q, (k, counts) = split(attn.to_q(hidden_states)), self.keys(split(attn.to_k(hidden_states)))
        v, _ = self.keys(split(attn.to_v(hidden_states)))
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + self.mask(counts)
        return attn.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def mixed_forward(self, x, temb, *args, **kwargs):
    """A resnet whose parts `self.mixed` ({part: ([weights], [biases])}) are mixed by its router."""
    time = F.silu(temb)
    features = torch.cat([x.mean((2, 3)), time], 1) if self.routing == "full" else time
    shares = ((features @ self.router[0].T + self.router[1]) / self.temperature).softmax(1)

    def run(part, x, padding=0):
        layer = getattr(self, part)
        linear = part == "time_emb_proj"
        if part not in self.mixed:
            return layer(x)
        weights, biases = self.mixed[part]
        rows = []
        for row, share in zip(x, shares):
            w, b = sum(s * w for s, w in zip(share, weights)), sum(s * b for s, b in zip(share, biases))
            rows.append(F.linear(row, w, b) if linear else F.conv2d(row[None], w, b, padding=padding)[0])
        return torch.stack(rows)

    h = run("conv1", F.silu(self.norm1(x)), 1) + run("time_emb_proj", time)[:, :, None, None]
    h = run("conv2", F.silu(self.norm2(h)), 1)
    return h + (run("conv_shortcut", x) if self.conv_shortcut is not None else x)


def set_experts(unet, condconv, tensors):
    for name, entry in condconv["experts"].items():
        resnet = unet.get_submodule(name)
        resnet.routing, resnet.temperature = condconv["routing"], condconv["temperature"]
        resnet.router = [tensors[f"{name}.router.{kind}"] for kind in ("weight", "bias")]
        resnet.mixed = {}
        for part in entry["parts"]:
            names = [f"{name}.{part}"] + [f"{name}.experts.{e}.{part}" for e in range(1, entry["count"])]
            resnet.mixed[part] = [[tensors[f"{n}.{kind}"] for n in names] for kind in ("weight", "bias")]
        resnet.forward = types.MethodType(mixed_forward, resnet)


def set_windows(unet, gri, size):
    """`size`: of the latents that the UNet will be given."""
    stages = len(unet.config.block_out_channels)
    for name, module in unet.named_modules():
        found = re.match(r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?.*\.attn1$", name)
        if not found:
            continue
        stage = {"down_blocks": lambda b: b, "up_blocks": lambda b: stages - 1 - b, "mid_block": lambda b: stages - 1}[
            found[1]](int(found[2] or 0))
        if unet.config.sample_size >> stage in gri["stages"]:
            grid = [-(-n // 2 ** stage) for n in size]
            module.processor = GriAttention(grid, gri["window"], gri["pool"])


@torch.no_grad()
def run(directory, latents, timestep, context):
    """The prediction of the UNet in DIRECTORY/unet, in float32."""
    directory = directory / "unet"
    light = json.loads((directory / "config.json").read_text()).get("asdm", {})
    unet = UNet2DConditionModel.from_pretrained(directory).float().eval()
    tensors = {name: value.float() for name, value in
               load_file(directory / "diffusion_pytorch_model.safetensors").items()}
    if "condconv" in light:
        set_experts(unet, light["condconv"], tensors)
    if "gri" in light:
        set_windows(unet, light["gri"], latents.shape[2:])
    return unet(torch.tensor(latents), torch.tensor(timestep), torch.tensor(context)).sample.numpy()
