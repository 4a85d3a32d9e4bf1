"""Damaged and foreign checkpoints: each is refused with exit 1 and a message that names file, key or tensor."""

import json
import struct

import pytest

import pictures
import tensorfile

UNET = "unet/diffusion_pytorch_model.safetensors"
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
           "tokenizer/vocab.json")
DEEP = 100_000


def refuse(asdm, model, folder, *named, codes=(1,), arguments=(), **options):
    done = asdm.generate(model, folder / "out.png", *arguments, check=False, timeout=60, **options)
    assert done.returncode in codes, f"exit {done.returncode}: {done.stderr}"
    for name in named:
        assert str(name) in done.stderr, f"{name} is not named:\n{done.stderr}"
    assert not (folder / "out.png").exists()
    assert not [path for path in folder.iterdir() if path.name != "model"], "files were left"
    return done.stderr


# --- safetensors


def repack(path, change):
    """Rewrites a file after change(header, data) -> (header, data)."""
    path.write_bytes(tensorfile.join(*change(*tensorfile.split(path))))


def first_names(header):
    return [name for name in header if name != "__metadata__"][:2]


def overlap(header, data):
    one, two = first_names(header)
    first, last = header[one]["data_offsets"]
    size = header[two]["data_offsets"][1] - header[two]["data_offsets"][0]
    header[two]["data_offsets"] = [first, first + size]
    return header, data


def hole(header, data):
    one = first_names(header)[0]
    end = header[one]["data_offsets"][1]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset + 16 for offset in entry["data_offsets"]]
    return header, data[:end] + bytes(16) + data[end:]


def set_entry(**values):
    def change(header, data):
        header[first_names(header)[0]].update(values)
        return header, data

    return change


def as_text(edit):
    def change(header, data):
        return edit(json.dumps(header).encode()), data

    return change


def repeat_first(text):
    header = json.loads(text)
    name = first_names(header)[0]
    entry = json.dumps({name: header[name]}).encode()
    return entry[:-1] + b"," + text[1:]


HEADERS = {
    "overlapping": overlap,
    "holed": hole,
    "trailing-data": lambda header, data: (header, data + bytes(8)),
    "offsets-past-end": set_entry(data_offsets=[0, 1 << 62]),
    "offsets-reversed": set_entry(data_offsets=[64, 0]),
    "offsets-negative": set_entry(data_offsets=[-8, 0]),
    "offsets-fraction": set_entry(data_offsets=[0.5, 8]),
    "offsets-three": set_entry(data_offsets=[0, 1, 2]),
    "offsets-text": set_entry(data_offsets="0,8"),
    "shape-overflow": set_entry(shape=[1 << 40, 1 << 40]),
    "shape-huge": set_entry(shape=[1 << 63]),
    "shape-negative": set_entry(shape=[-1, 3]),
    "shape-fraction": set_entry(shape=[1.5]),
    "shape-missing": set_entry(shape=None),
    "shape-rank": set_entry(shape=[1] * 1000),
    "dtype-unknown": set_entry(dtype="F7"),
    "dtype-number": set_entry(dtype=16),
    "dtype-wide": set_entry(dtype="F64"),
    "json-twice": as_text(repeat_first),
    "json-cut": as_text(lambda text: text[:-10]),
    "json-array": as_text(lambda text: b"[" + text + b"]"),
    "json-nul": as_text(lambda text: text.replace(b'"dtype"', b'"dty\0pe"', 1)),
    "json-utf8": as_text(lambda text: text.replace(b'"dtype"', b'"dty\xffpe"', 1)),
    "json-deep": as_text(lambda text: b'{"__metadata__":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
    "json-metadata": as_text(lambda text: b'{"__metadata__":{"a":1},' + text.replace(b'"__metadata__"', b'"m"', 1)[1:]),
    "json-empty": as_text(lambda text: b"{}"),
    "json-nothing": as_text(lambda text: b""),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_safetensors_headers(asdm, small_model, model_copy, tmp_path, kind):
    model = model_copy(small_model, [UNET])
    name = first_names(tensorfile.split(model / UNET)[0])[0]
    repack(model / UNET, HEADERS[kind])
    message = refuse(asdm, model, tmp_path, "diffusion_pytorch_model.safetensors")
    if kind.startswith(("offsets", "shape", "dtype")) or kind == "json-twice":
        assert name in message, f"{name} is not named:\n{message}"


@pytest.mark.parametrize("kind, length", [("empty", 0), ("four-bytes", 4), ("no-header", 8), ("in-header", 2000),
                                          ("no-data", None), ("last-byte", -1), ("half", -7_000_000)])
def test_safetensors_truncated(asdm, small_model, model_copy, tmp_path, kind, length):
    model = model_copy(small_model, [UNET])
    raw = (model / UNET).read_bytes()
    if length is None:
        length = 8 + struct.unpack_from("<Q", raw)[0]
    (model / UNET).write_bytes(raw[:length])
    refuse(asdm, model, tmp_path, "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 2**32, 200_000_000])
def test_safetensors_huge_header(asdm, small_model, model_copy, tmp_path, length):
    """The length is believed by nobody; the largest one here is really in the (sparse) file."""
    model = model_copy(small_model, [UNET])
    with open(model / UNET, "r+b") as file:
        file.write(struct.pack("<Q", length))
        if length == 200_000_000:
            file.truncate(length + 64)
    refuse(asdm, model, tmp_path, "diffusion_pytorch_model.safetensors", memory_max=4 << 30)


def test_safetensors_huge_file_of_zeros(asdm, small_model, model_copy, tmp_path):
    model = model_copy(small_model, [UNET])
    with open(model / UNET, "wb") as file:
        file.truncate(1 << 40)
    refuse(asdm, model, tmp_path, "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("part", [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_missing_file(asdm, small_model, model_copy, tmp_path, part):
    model = model_copy(small_model, [part])
    (model / part).unlink()
    refuse(asdm, model, tmp_path, part.split("/")[0], "safetensors")


# --- tensors


def pack(header, data, names):
    """A file of only `names`, in their order, from another's."""
    made, pieces, end = {}, [], 0
    for name in names:
        first, last = header[name]["data_offsets"]
        made[name] = dict(header[name], data_offsets=[end, end + last - first])
        pieces.append(data[first:last])
        end += last - first
    return made, b"".join(pieces)


@pytest.mark.parametrize("part, gone", [
    (UNET, ("conv_in.weight", "mid_block.attentions.0.proj_in.bias", "up_blocks.1.resnets.0.conv1.weight")),
    ("vae/diffusion_pytorch_model.safetensors", ("decoder.conv_out.bias", "encoder.conv_in.weight")),
    ("text_encoder/model.safetensors", ("final_layer_norm.weight",)),
])
def test_missing_tensors_are_listed(asdm, small_model, model_copy, tmp_path, part, gone):
    model = model_copy(small_model, [part])

    def without(header, data):
        dropped = [name for name in header if name.removeprefix("text_model.") in gone]
        assert len(dropped) == len(gone)
        return pack(header, data, [name for name in header if name not in (*dropped, "__metadata__")])

    repack(model / part, without)
    refuse(asdm, model, tmp_path, *gone)


@pytest.mark.parametrize("part", [UNET, "vae/diffusion_pytorch_model.safetensors"])
def test_extra_tensors_are_listed(asdm, small_model, model_copy, tmp_path, part):
    model = model_copy(small_model, [part])

    def more(header, data):
        for name in ("controls.0.weight", "surprise"):
            header[name] = {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}
            data += bytes(8)
        return header, data

    repack(model / part, more)
    refuse(asdm, model, tmp_path, "controls.0.weight", "surprise")


def test_misshapen_tensors_are_listed(asdm, small_model, model_copy, tmp_path):
    """Same bytes, other shapes: told with both shapes."""
    model = model_copy(small_model, [UNET])
    changed = ("conv_in.weight", "time_embedding.linear_1.bias")

    def reshape(header, data):
        for name in changed:
            header[name]["shape"] = [1] + header[name]["shape"][::-1]
        return header, data

    repack(model / UNET, reshape)
    refuse(asdm, model, tmp_path, *changed, "64")


def test_wrong_dtype_of_a_tensor(asdm, small_model, model_copy, tmp_path):
    model = model_copy(small_model, [UNET])

    def integers(header, data):
        header["conv_in.weight"]["dtype"] = "I16"
        return header, data

    repack(model / UNET, integers)
    refuse(asdm, model, tmp_path, "conv_in.weight", "I16")


def test_config_that_does_not_fit_the_tensors(asdm, small_model, model_copy, tmp_path):
    model = model_copy(small_model, ["unet/config.json"])
    edit(model / "unet/config.json", block_out_channels=[64, 96, 160, 192])
    refuse(asdm, model, tmp_path, "down_blocks.3.")


# --- JSON


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


BROKEN_JSON = {
    "empty": lambda text: b"",
    "cut": lambda text: text.rstrip()[:-5],
    "duplicate": lambda text: text.rstrip()[:-1] + b"," + text.lstrip()[1:],
    "nul": lambda text: text.replace(b":", b":\0", 1),
    "escaped-nul": lambda text: text.replace(b'"', b'"\\u0000', 1),
    "utf8": lambda text: text.replace(b'"', b'"\xc3\x28', 1),
    "surrogate": lambda text: text.replace(b'"', b'"\\ud800', 1),
    "deep-arrays": lambda text: b"[" * DEEP + b"]" * DEEP,
    "deep-objects": lambda text: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep-open": lambda text: b"[" * (1 << 20),
    "trailing": lambda text: text + b"{}",
    "array": lambda text: b"[1, 2]",
    "number": lambda text: b"17",
    "comment": lambda text: b"/* c */" + text,
    "nan": lambda text: text.rstrip()[:-1] + b', "zz": NaN}',
    "large": lambda text: b" " * (80 << 20) + text,
}


@pytest.mark.parametrize("kind", BROKEN_JSON)
@pytest.mark.parametrize("part", CONFIGS)
def test_broken_json(asdm, small_model, model_copy, tmp_path, part, kind):
    model = model_copy(small_model, [part])
    (model / part).write_bytes(BROKEN_JSON[kind]((model / part).read_bytes()))
    refuse(asdm, model, tmp_path, part.rpartition("/")[2])


@pytest.mark.parametrize("part", CONFIGS + ("tokenizer/merges.txt",))
def test_missing_json(asdm, small_model, model_copy, tmp_path, part):
    model = model_copy(small_model, [part])
    (model / part).unlink()
    refuse(asdm, model, tmp_path, part.rpartition("/")[2])


@pytest.mark.parametrize("part, key, value", [
    ("unet", "block_out_channels", "wide"), ("unet", "block_out_channels", []), ("unet", "block_out_channels", [64, 0, 160, 160]),
    ("unet", "block_out_channels", [64, -96, 160, 160]), ("unet", "block_out_channels", [10**12] * 4),
    ("unet", "block_out_channels", [64.5, 96, 160, 160]), ("unet", "block_out_channels", [64, 96, 160]),
    ("unet", "layers_per_block", 0), ("unet", "layers_per_block", [2, 2]), ("unet", "layers_per_block", 10**9),
    ("unet", "down_block_types", ["CrossAttnDownBlock2D", "NoSuchBlock", "CrossAttnDownBlock2D", "DownBlock2D"]),
    ("unet", "mid_block_type", "NoSuchMid"), ("unet", "attention_head_dim", 0), ("unet", "attention_head_dim", 7),
    ("unet", "norm_num_groups", 0), ("unet", "norm_num_groups", 7), ("unet", "cross_attention_dim", -1),
    ("unet", "in_channels", 9), ("unet", "sample_size", "big"), ("unet", "norm_eps", "small"), ("unet", "act_fn", "no_such_act"),
    ("vae", "block_out_channels", "x"), ("vae", "latent_channels", 16), ("vae", "scaling_factor", 0),
    ("vae", "scaling_factor", "x"), ("vae", "norm_num_groups", 5),
    ("text_encoder", "hidden_size", 0), ("text_encoder", "num_attention_heads", 5), ("text_encoder", "vocab_size", 0),
    ("text_encoder", "hidden_act", "no_such_act"), ("text_encoder", "max_position_embeddings", -77),
    ("text_encoder", "num_hidden_layers", 10**9),
    ("scheduler", "num_train_timesteps", 0), ("scheduler", "num_train_timesteps", 10**9), ("scheduler", "beta_start", "low"),
    ("scheduler", "beta_end", -1), ("scheduler", "beta_schedule", "no_such_schedule"),
    ("scheduler", "prediction_type", "no_such_type"), ("scheduler", "timestep_spacing", "no_such_spacing"),
    ("scheduler", "trained_betas", [0.1]), ("scheduler", "trained_betas", "x"), ("scheduler", "steps_offset", -5000),
])
def test_bad_values_name_the_key(asdm, small_model, model_copy, tmp_path, part, key, value):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    model = model_copy(small_model, [f"{part}/{name}"])
    edit(model / part / name, **{key: value})
    refuse(asdm, model, tmp_path, key)


@pytest.mark.parametrize("part, key, value", [
    ("unet", "class_embed_type", "timestep"), ("unet", "num_class_embeds", 1000), ("unet", "time_embedding_type", "fourier"),
    ("unet", "dual_cross_attention", True), ("unet", "only_cross_attention", True),
    ("unet", "only_cross_attention", [True, True, True, False]), ("unet", "resnet_time_scale_shift", "scale_shift"),
    ("unet", "addition_embed_type", "text"), ("unet", "addition_embed_type", "text_time"), ("unet", "encoder_hid_dim", 768),
    ("unet", "encoder_hid_dim_type", "text_proj"), ("unet", "time_cond_proj_dim", 256),
    ("unet", "down_block_types", ["SimpleCrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]),
    ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"), ("unet", "act_fn", "mish"),
    ("unet", "attention_type", "gated"), ("unet", "asdm", {"no_such_feature": 1}),
    ("unet", "asdm", {"lineage": {}, "gri": {"stages": [64]}}), ("unet", "asdm", 3),
    ("vae", "latents_mean", [0.1, 0.1, 0.1, 0.1]), ("vae", "latents_std", [2.0, 1.0, 1.0, 1.0]), ("vae", "shift_factor", 0.5),
    ("vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
    ("scheduler", "prediction_type", "sample"),
])
def test_unsupported_keys_are_refused_by_name(asdm, small_model, model_copy, tmp_path, part, key, value):
    """Values that would change the picture and that no checkpoint of SD 1.x or 2.x has.

    What diffusers can compute with, test_zoo.py accepts as well when the picture is right."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    model = model_copy(small_model, [f"{part}/{name}"])
    edit(model / part / name, **{key: value})
    if key in ("prediction_type", "shift_factor", "latents_mean", "latents_std", "act_fn"):  # without effect, or doable
        done = asdm.generate(model, tmp_path / "out.png", check=False)
        assert done.returncode == 0 or done.returncode == 1 and key in done.stderr
        return
    refuse(asdm, model, tmp_path, key)


@pytest.mark.parametrize("part, key, value", [
    ("unet", "upcast_attention", True), ("unet", "dropout", 0.0), ("unet", "_name_or_path", "x"), ("unet", "sample_size", 16),
    ("unet", "class_embed_type", None), ("unet", "only_cross_attention", [False] * 4), ("unet", "layers_per_block", [2] * 4),
    ("unet", "attention_head_dim", [4] * 4), ("unet", "transformer_layers_per_block", [1] * 4),
    ("vae", "force_upcast", False), ("vae", "sample_size", 512), ("text_encoder", "torch_dtype", "float16"),
    ("text_encoder", "attention_dropout", 0.5), ("scheduler", "thresholding", False),
])
def test_harmless_keys_are_accepted(asdm, small_model, model_copy, tmp_path, part, key, value):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    model = model_copy(small_model, [f"{part}/{name}"])
    edit(model / part / name, **{key: value})
    asdm.generate(model, tmp_path / "out.png")
    asdm.generate(small_model, tmp_path / "same.png")
    assert pictures.equal(tmp_path / "out.png", tmp_path / "same.png")


# --- vocabulary


@pytest.mark.parametrize("token", ["\u0143", "\u0143</w>", "a", "a</w>", "!"])
def test_vocabulary_that_lacks_a_byte(asdm, small_model, model_copy, tmp_path, token):
    """The id stays taken, so that only the byte is missing. Merges that need it are a fault as well."""
    model = model_copy(small_model, ["tokenizer/vocab.json"])
    path = model / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text())
    assert token in vocabulary
    renamed = {("qqzzqq" if key == token else key): value for key, value in vocabulary.items()}
    path.write_text(json.dumps(renamed, ensure_ascii=False), encoding="utf-8")
    refuse(asdm, model, tmp_path, "vocab.json")


@pytest.mark.parametrize("change", ["repeated-id", "gap", "negative", "text-id", "fraction", "huge-id", "no-end-token"])
def test_vocabulary_ids(asdm, small_model, model_copy, tmp_path, change):
    model = model_copy(small_model, ["tokenizer/vocab.json"])
    path = model / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text())
    token = "house</w>" if "house</w>" in vocabulary else list(vocabulary)[700]
    if change == "no-end-token":
        vocabulary["<|other|>"] = vocabulary.pop("<|endoftext|>")
    else:
        vocabulary[token] = {"repeated-id": 3, "gap": 5000, "negative": -1, "text-id": "7", "fraction": 1.5,
                             "huge-id": 2**40}[change]
    path.write_text(json.dumps(vocabulary))
    refuse(asdm, model, tmp_path, "<|endoftext|>" if change == "no-end-token" else "vocab.json")


@pytest.mark.parametrize("line", ["onlyone", "a b c", "qqq zzz", "\xff"])
def test_bad_merges(asdm, small_model, model_copy, tmp_path, line):
    model = model_copy(small_model, ["tokenizer/merges.txt"])
    path = model / "tokenizer" / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines.insert(5, line)
    path.write_bytes("\n".join(lines).encode("latin-1" if line == "\xff" else "utf-8", "replace"))
    refuse(asdm, model, tmp_path, "merges.txt")


# --- pickles and one-file checkpoints


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt", "zip.ckpt"])
def test_pickles_are_refused_with_advice(asdm, small_model, tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_bytes(b"PK\x03\x04" + bytes(100) if name.startswith("zip") else b"\x80\x02}q\x00." + bytes(100))
    message = refuse(asdm, folder / name, tmp_path, name, arguments=["--tokenizer", small_model / "tokenizer"])
    assert "safetensors" in message and "convert" in message.lower()


@pytest.mark.parametrize("part, bin_name", [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")])
def test_directory_of_pickles(asdm, small_model, model_copy, tmp_path, part, bin_name):
    weights = UNET if part == "unet" else "text_encoder/model.safetensors"
    model = model_copy(small_model, [weights])
    (model / weights).rename(model / part / bin_name)
    message = refuse(asdm, model, tmp_path, bin_name)
    assert "safetensors" in message and "convert" in message.lower()


def test_one_file_without_tokenizer(asdm, zoo, tmp_path):
    refuse(asdm, zoo / "models" / "sd15.safetensors", tmp_path, "--tokenizer", codes=(1, 2))


def test_one_file_that_is_something_else(asdm, small_model, tmp_path):
    """A UNet alone in diffusers' names is no one-file checkpoint."""
    refuse(asdm, small_model / UNET, tmp_path, "diffusion_pytorch_model.safetensors",
           arguments=["--tokenizer", small_model / "tokenizer"])


def test_one_file_with_a_missing_tensor(asdm, zoo, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    gone = "model.diffusion_model.middle_block.1.proj_in.weight"
    header, data = tensorfile.split(zoo / "models" / "sd15.safetensors")
    names = [name for name in header if name not in (gone, "__metadata__")]
    (model / "cut.safetensors").write_bytes(tensorfile.join(*pack(header, data, names)))
    message = refuse(asdm, model / "cut.safetensors", tmp_path, arguments=["--tokenizer", zoo / "models/sd15/tokenizer"])
    assert gone in message or "mid_block.attentions.0.proj_in.weight" in message
