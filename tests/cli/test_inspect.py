"""asdm inspect and bench: figures against diffusers' own count and against ASDM.md's tables."""

import json
import struct

import pytest

import tensorfile

# Per row at 64x64 latents, attention counted: parameters of the UNet, GMAC.
KNOWN = {
    "sd15": (859_520_964, 401.64),
    "bk-base": (None, 261.5),  # all four pairs removed: -32.6 % parameters
    "pair-64": (None, 343.2),
    "no-mid": (None, 395.6),
}
BENCH_KEYS = ["what", "model", "device", "dtype", "rows", "width", "height", "runs", "median_ms", "min_ms", "max_ms"]


def numbers(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def inspect(asdm, model, *arguments):
    done = asdm("inspect", model, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_gmac(values, gmac, tolerance):
    """In GMAC or in single MACs, whichever unit the key says."""
    return any(abs(value - gmac) <= tolerance or abs(value / 1e9 - gmac) <= tolerance for value in values)


def parameters(directory):
    count = 0
    for path in directory.glob("*.safetensors"):
        header, _ = tensorfile.split(path)
        for name, entry in header.items():
            if name != "__metadata__":
                size = 1
                for dimension in entry["shape"]:
                    size *= dimension
                count += size
    return count


def test_demo_checkpoint(asdm, models_dir):
    figures = numbers(inspect(asdm, models_dir))
    for part in ("unet", "vae", "text_encoder"):
        assert parameters(models_dir / part) in figures, f"{part}: {parameters(models_dir / part)} not in {figures}"


def test_table_names_the_blocks(asdm, models_dir):
    done = asdm("inspect", models_dir)
    assert done.returncode == 0 and done.stderr == ""
    for word in ("down", "mid", "up", "GMAC"):
        assert word in done.stdout, word


@pytest.mark.parametrize("name", ["sd15", "sd21", "bk-base", "bk-small", "bk-tiny", "layers-list"])
def test_zoo(asdm, zoo, name):
    figures = numbers(inspect(asdm, zoo / "models" / name))
    for part in ("unet", "vae", "text_encoder"):
        assert parameters(zoo / "models" / name / part) in figures, part


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_one_file(asdm, zoo, version):
    figures = numbers(inspect(asdm, zoo / "models" / f"{version}.safetensors"))
    assert parameters(zoo / "models" / version / "unet") in figures


def full_size(kind):
    """diffusers' model of full width, without memory behind it."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280])
    config.update({
        "sd15": {},
        "bk-base": dict(layers_per_block=1),
        "pair-64": dict(layers_per_block=[1, 2, 2, 2]),
        "no-mid": dict(mid_block_type=None),
    }[kind])
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel(**config)


@pytest.mark.parametrize("kind", KNOWN)
def test_full_size_figures(asdm, models_dir, tmp_path, kind):
    """A UNet of full width in a sparse file: all header, no data. The other parts are the demo checkpoint's."""
    unet = full_size(kind)
    directory = tmp_path / "model"
    (directory / "unet").mkdir(parents=True)
    for part in ("model_index.json", "scheduler", "tokenizer", "vae"):
        (directory / part).symlink_to(models_dir / part)
    unet.save_config(directory / "unet")
    header, end, count = {}, 0, 0
    for name, weight in unet.state_dict().items():
        size = 2 * weight.numel()
        header[name] = {"dtype": "F16", "shape": list(weight.shape), "data_offsets": [end, end + size]}
        end, count = end + size, count + weight.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "unet" / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    wide_text_encoder(directory)
    figures = numbers(inspect(asdm, directory))
    known, gmac = KNOWN[kind]
    assert known in (None, count)
    assert count in figures
    assert has_gmac(figures, gmac, 0.005 if kind == "sd15" else 0.05), f"{gmac} GMAC not in {figures}"
    assert any(value in (2 * count, 2 * count / 2**20) for value in figures), "bytes of the UNet"
    if kind == "sd15":
        shown = asdm("inspect", directory).stdout.replace(",", "").replace("_", "")
        assert "859520964" in shown or "859.52" in shown or "859.5" in shown
        assert "401.6" in shown


def wide_text_encoder(directory):
    """A text encoder whose width is the UNet's 768, sparse as well; one layer, the demo vocabulary."""
    width, inner = 768, 3072
    shapes = {"embeddings.token_embedding.weight": [1252, width], "embeddings.position_embedding.weight": [77, width],
              "final_layer_norm.weight": [width], "final_layer_norm.bias": [width]}
    layer = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    layer.update({"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)})
    for name, shape in layer.items():
        shapes[f"encoder.layers.0.{name}.weight"], shapes[f"encoder.layers.0.{name}.bias"] = list(shape), [shape[0]]
    for name in ("layer_norm1", "layer_norm2"):
        for kind in ("weight", "bias"):
            shapes[f"encoder.layers.0.{name}.{kind}"] = [width]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (directory / "text_encoder").mkdir()
    with open(directory / "text_encoder" / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    config = {"architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu", "hidden_size": width, "intermediate_size": inner,
              "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "model_type": "clip_text_model",
              "num_attention_heads": 12, "num_hidden_layers": 1, "vocab_size": 1252}
    (directory / "text_encoder" / "config.json").write_text(json.dumps(config))


def test_inspect_of_nothing(asdm, tmp_path):
    done = asdm("inspect", tmp_path / "absent")
    assert done.returncode == 1 and "absent" in done.stderr and done.stdout == ""
    assert asdm("inspect").returncode == 2


@pytest.mark.parametrize("what", ["unet", "text", "vae-encode", "vae-decode", "pipeline"])
def test_bench_json(asdm, models_dir, what):
    done = asdm("bench", what, "--model", models_dir, "--rows", "2", "--width", "64", "--height", "64", "--runs", "3",
                "--threads", "2", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for key in BENCH_KEYS:
        assert key in result, key
    assert result["what"] == what and result["runs"] == 3
    assert (result["width"], result["height"]) == (64, 64)
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["max_ms"]
    assert result["dtype"] in ("fp32", "bf16", "fp16") and result["device"].startswith(("cpu", "ref", "cuda"))


def test_bench_table(asdm, models_dir):
    done = asdm("bench", "unet", "--model", models_dir, "--rows", "1", "--width", "64", "--height", "64", "--runs", "2")
    assert done.returncode == 0 and "ms" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sd15", "sd21", "bk-base", "bk-small", "bk-tiny"])
def test_bench_arch_needs_no_checkpoint(asdm, arch, cpu):
    done = asdm("bench", "unet", "--arch", arch, "--rows", "1", "--width", "64", "--height", "64", "--runs", "1",
                "--device", cpu, "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]


@pytest.mark.parametrize("arguments", [
    ("bench",), ("bench", "everything", "--arch", "sd15"), ("bench", "unet"), ("bench", "unet", "--arch", "sd99"),
    ("bench", "unet", "--arch", "sd15", "--rows", "0"), ("bench", "unet", "--arch", "sd15", "--runs", "none"),
    ("inspect", "--jsn"),
])
def test_wrong_usage(asdm, arguments):
    done = asdm(*arguments)
    assert done.returncode == 2 and done.stderr.strip() and done.stdout == ""
