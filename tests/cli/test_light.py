"""Light models: global-regional attention and conditional convolutions against PyTorch, and what configurations may say."""
import copy
import hashlib
import json

import numpy as np
import pytest

import compare
import golden_requests
import tensorfile

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# What prune is told, by name: every form of the resnets and of the attention.
LIGHT = {
    "gri": ["--gri", "32,16", "--gri-window", "8", "--gri-pool", "4"],
    "full": ["--remove", "pair32,pair16,pair8,pair4,mid", "--condconv", "full"],
    "timestep": ["--remove", "pair32,pair8,mid", "--condconv", "timestep"],
    "all": ["--remove", "pair32,pair16,pair4,mid", "--condconv", "full", "--gri", "32", "--gri-window", "6", "--gri-pool", "3"],
}


def make_light(asdm, models_dir, folder, arguments):
    done = asdm("prune", models_dir, folder, *arguments)
    assert done.returncode == 0, done.stderr
    return folder


def tensors_of(model):
    return {name: np.array(value) for name, value in tensorfile.read(model / WEIGHTS).items()}


@pytest.fixture(scope="module")
def light(asdm, models_dir, tmp_path_factory):
    """light(NAME): a model of LIGHT, whose routers were given numbers, so that shares differ by row and input."""
    made = {}

    def get(name):
        if name not in made:
            model = make_light(asdm, models_dir, tmp_path_factory.mktemp("light") / name, LIGHT[name])
            tensors, random = tensors_of(model), np.random.default_rng(7)
            for key, value in tensors.items():
                if ".router." in key:
                    scale = 1 if key.endswith("bias") else 4 / np.sqrt(value.shape[1])
                    tensors[key] = (scale * random.standard_normal(value.shape)).astype(np.float32)
            tensorfile.write(model / WEIGHTS, tensors)
            made[name] = model
        return made[name]

    return get


@pytest.fixture(scope="module")
def inputs(golden_dir):
    """Of two rows, one with a prompt and one without, of the golden requests; latents of any size."""
    def make(size):
        case = golden_requests.stage_inputs(tensorfile.read(golden_dir / "t2i-ddim-negative.safetensors"))
        case = {name: np.array(case[name]) for name in ("timestep", "prompt_embeds", "negative_prompt_embeds")}
        case["unet_in"] = np.random.default_rng(3).standard_normal((2, 4, *size)).astype(np.float32)
        return case
    return make


@pytest.fixture(scope="module")
def expected(light, inputs):
    """expected(NAME, SIZE): PyTorch's prediction, made once for both devices."""
    pytest.importorskip("diffusers")
    import light_unet

    made = {}

    def get(name, size):
        if (name, size) not in made:
            given = inputs(size)
            context = np.concatenate([given["negative_prompt_embeds"], given["prompt_embeds"]])
            made[name, size] = light_unet.run(light(name), given["unet_in"], given["timestep"].reshape(-1)[:1], context)
        return made[name, size]

    return get


@pytest.mark.parametrize("size", [(32, 32), (21, 38)])
@pytest.mark.parametrize("device", ["ref", "cpu"])
@pytest.mark.parametrize("name", LIGHT)
def test_against_pytorch(light, inputs, expected, stages, request, name, device, size):
    got = stages(light(name), device if device == "ref" else request.getfixturevalue("cpu"), "fp32", inputs(size))["unet_out"]
    compare.check_rel_l2(got, expected(name, size), compare.STAGE_REL_L2_MAX, f"{name} on {device}")


@pytest.mark.parametrize("name", LIGHT)
def test_bf16(light, inputs, stages, cpu, bf16, name):
    given = inputs((32, 32))
    want, got = (stages(light(name), cpu, dtype, given)["unet_out"] for dtype in ("fp32", "bf16"))
    compare.check_rel_l2(got, want, 0.03, f"{name} in bf16")


def test_a_fresh_student_is_near_a_pruned_model(asdm, models_dir, inputs, stages, cpu, tmp_path):
    """98 % of each kernel are the layer's own; what removing does to the prediction is far more."""
    remove, given = ["--remove", "pair32,pair8"], inputs((32, 32))
    out = {"teacher": stages(models_dir, cpu, "fp32", given)["unet_out"]}
    for how in ("off", "full", "timestep"):
        model = make_light(asdm, models_dir, tmp_path / how, [*remove, "--condconv", how])
        out[how] = stages(model, cpu, "fp32", given)["unet_out"]
    change = {how: compare.rel_l2(out[how], out["off"]) for how in ("full", "timestep")}
    print(f"against the pruned model {change}, that against the teacher {compare.rel_l2(out['off'], out['teacher']):.3f}")
    assert 0 < change["full"] < 0.03 and change["timestep"] == pytest.approx(change["full"], rel=1e-3)


def test_experts_are_the_removed_layers(asdm, models_dir, tmp_path):
    model = make_light(asdm, models_dir, tmp_path / "light", ["--remove", "pair4,mid,pair8,pair32", "--condconv", "full"])
    original, new = tensors_of(models_dir), tensors_of(model)
    experts = json.loads((model / "unet/config.json").read_text())["asdm"]["condconv"]["experts"]
    wanted = {  # in the light model: its own name in the original, then its experts'
        "down_blocks.0.resnets.0": ("down_blocks.0.resnets.0", "down_blocks.0.resnets.1"),
        "up_blocks.3.resnets.1": ("up_blocks.3.resnets.2", "up_blocks.3.resnets.1"),
        "down_blocks.2.resnets.0": ("down_blocks.2.resnets.0", "down_blocks.2.resnets.1"),
        "up_blocks.1.resnets.0": ("up_blocks.1.resnets.0", "up_blocks.1.resnets.1"),
        "down_blocks.3.resnets.0": ("down_blocks.3.resnets.0", "down_blocks.3.resnets.1", "mid_block.resnets.0",
                                    "mid_block.resnets.1"),
        "up_blocks.0.resnets.1": ("up_blocks.0.resnets.2", "up_blocks.0.resnets.1"),
    }
    assert set(experts) == set(wanted)
    for name, originals in wanted.items():
        assert experts[name]["count"] == len(originals)
        parts = {part for part in ("conv1", "conv2", "time_emb_proj", "conv_shortcut") if all(
            f"{n}.{part}.weight" in original and original[f"{n}.{part}.weight"].shape ==
            original[f"{originals[0]}.{part}.weight"].shape for n in originals)}
        assert set(experts[name]["parts"]) == parts, name
        for e, of in enumerate(originals):
            for part in ("conv1", "conv2", "time_emb_proj"):
                here = f"{name}.experts.{e}.{part}" if e else f"{name}.{part}"
                assert (f"{here}.weight" in new) == (e == 0 or part in parts), here
                if f"{here}.weight" in new:
                    assert np.array_equal(new[f"{here}.weight"], original[f"{of}.{part}.weight"]), here
                    assert np.array_equal(new[f"{here}.bias"], original[f"{of}.{part}.bias"]), here
        assert not new[f"{name}.router.weight"].any()
        assert new[f"{name}.router.bias"].tolist() == [4] + [0] * (len(originals) - 1)


# Shapes of SD 1.5 (ASDM.md, section 3): both convolutions in down 0, down 3 with mid, up 0, up 1, up 3; conv2 in the others.
def test_experts_of_sd15(asdm):
    def parameters(*arguments):
        done = asdm("prune", "--arch", "sd15", "--dry-run", *arguments)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.splitlines()[2].split()[1])

    def conv(i, o, k=3):
        return i * o * k * k + o

    def extra(remove, routing="full"):
        return parameters("--remove", remove, "--condconv", routing) - parameters("--remove", remove)

    def router(inputs, experts=2):
        return experts * (inputs + 1280 + 1)

    assert extra("pair64") == (2 * conv(320, 320) + conv(1280, 320, 1) + router(320)
                               + conv(640, 320) + conv(320, 320) + conv(1280, 320, 1) + conv(640, 320, 1) + router(640))
    assert extra("pair32") == 2 * (conv(640, 640) + conv(1280, 640, 1)) + router(320) + router(960)
    assert extra("pair16") == (conv(1280, 1280) + conv(1280, 1280, 1) + router(640)
                               + conv(2560, 1280) + conv(1280, 1280) + conv(1280, 1280, 1) + conv(2560, 1280, 1) + router(2560))
    assert extra("pair8,mid", "timestep") == (
        3 * (2 * conv(1280, 1280) + conv(1280, 1280, 1)) + router(0, 4)
        + conv(2560, 1280) + conv(1280, 1280) + conv(1280, 1280, 1) + conv(2560, 1280, 1) + router(0))
    assert extra("mid") == 2 * (2 * conv(1280, 1280) + conv(1280, 1280, 1)) + router(1280, 3)


def test_configuration(asdm, models_dir, tmp_path):
    options = ["--remove", "mid", "--gri", "16,32", "--gri-window", "8", "--gri-pool", "2", "--condconv", "timestep"]
    model = make_light(asdm, models_dir, tmp_path / "light", options)
    light = json.loads((model / "unet/config.json").read_text())["asdm"]
    assert light["lineage"] == {
        "method": "prune", "removed": ["mid"],
        "options": {"remove": "mid", "gri": "16,32", "gri_window": 8, "gri_pool": 2, "condconv": "timestep"},
        "source_sha256": hashlib.sha256((models_dir / WEIGHTS).read_bytes()).hexdigest()}
    assert light["gri"] == {"stages": [32, 16], "window": 8, "pool": 2}
    assert light["condconv"] == {"routing": "timestep", "temperature": 1, "experts": {
        "down_blocks.3.resnets.1": {"count": 3, "parts": ["conv1", "conv2", "time_emb_proj"]}}}


def test_attention_alone_changes_no_weight(asdm, models_dir, tmp_path):
    model = make_light(asdm, models_dir, tmp_path / "light", ["--gri", "32"])
    original, new = tensors_of(models_dir), tensors_of(model)
    assert original.keys() == new.keys() and all(np.array_equal(original[name], new[name]) for name in new)
    light = json.loads((model / "unet/config.json").read_text())["asdm"]
    assert light["gri"] == {"stages": [32], "window": 16, "pool": 4} and light["lineage"]["removed"] == []
    # A stage more, with the cells that the model has; and layers less.
    more = make_light(asdm, model, tmp_path / "more", ["--gri", "16", "--remove", "pair8"])
    assert json.loads((more / "unet/config.json").read_text())["asdm"]["gri"] == {"stages": [32, 16], "window": 16, "pool": 4}


def test_attention_goes_with_its_stage(asdm, models_dir, tmp_path):
    """The stage of the smallest map has attention in the middle block alone."""
    first = make_light(asdm, models_dir, tmp_path / "first", ["--gri", "32,4"])
    for source, stages in ((first, [32]), (make_light(asdm, models_dir, tmp_path / "mid", ["--gri", "4"]), None)):
        out = make_light(asdm, source, tmp_path / "out", ["--remove", "mid", "--force"])
        gri = json.loads((out / "unet/config.json").read_text())["asdm"].get("gri")
        assert (gri and gri["stages"]) == stages and asdm("inspect", out).returncode == 0


def test_windows_as_large_as_the_map_are_plain_attention(asdm, models_dir, inputs, stages, cpu, tmp_path):
    model = make_light(asdm, models_dir, tmp_path / "light", ["--gri", "32,16,8,4", "--gri-window", "32"])
    given = inputs((32, 32))
    for device in ("ref", cpu):
        plain, windows = (stages(m, device, "fp32", given)["unet_out"] for m in (models_dir, model))
        assert np.array_equal(plain, windows), device


@pytest.mark.parametrize("arguments, message", [
    (["--gri", "64"], "gri: stages: 64 is the height of no stage with self-attention; those are 32, 16, 8, 4"),
    (["--gri", "32,32"], "32 is named twice"),
    (["--gri", "32,"], None),
    (["--gri", "x"], '"x" is not a list of heights'),
    (["--gri", "+32"], "is not a list of heights"),
    (["--gri", "0" * 20000 + "32"], "is not a list of heights"),
    (["--gri", ""], "must name at least one unit"),
    (["--gri", "32", "--gri-window", "10", "--gri-pool", "4"], "pool: must divide the window of 10, is 4"),
    (["--gri", "4", "--remove", "mid"], "4 is the height of no stage with self-attention"),
    (["--remove", "mid", "--gri-window", "8"], "gri: must name at least one stage"),
    (["--remove", "mid", "--condconv", "some"], 'condconv: must be full, timestep or off, is "some"'),
    (["--gri", "32", "--condconv", "full"], "condconv: needs units to remove"),
    (["--condconv", "off"], "must name at least one unit"),
])
def test_wrong_options(asdm, models_dir, tmp_path, arguments, message):
    done = asdm("prune", models_dir, tmp_path / "out", *arguments)
    assert done.returncode == (2 if message else 0), done.stderr
    assert not message or message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ([] if message else ["out"])


def test_experts_are_not_pruned(asdm, light, tmp_path):
    done = asdm("prune", light("timestep"), tmp_path / "out", "--remove", "pair16")
    assert done.returncode == 1 and "asdm.condconv" in done.stderr
    assert asdm("prune", light("timestep"), tmp_path / "out", "--gri", "32").returncode == 0
    assert tensors_of(tmp_path / "out").keys() == tensors_of(light("timestep")).keys()


FRESH = {"gri": {"stages": [32], "window": 8, "pool": 4},
         "condconv": {"routing": "full", "temperature": 1.0, "experts": {
             "down_blocks.3.resnets.1": {"count": 3, "parts": ["conv1", "conv2", "time_emb_proj"]}}}}


def changed(path, value):
    """FRESH with the member at `path` set, or removed (None)."""
    light = copy.deepcopy(FRESH)
    node = light
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return light


RESNET = ("condconv", "experts", "down_blocks.3.resnets.1")


@pytest.mark.parametrize("light, message", [
    (FRESH, None),
    (changed(["condconv", "temperature"], None), None),
    (changed(["lineage"], {"anything": 1}), None),
    (changed(["grid"], 1), "asdm: grid: unknown key"),
    (changed(["gri"], 5), "asdm.gri: must be an object"),
    (changed(["gri", "step"], 1), "asdm.gri: step: unknown key"),
    (changed(["gri", "stages"], [64]), "asdm.gri: stages: 64 is the height of no stage"),
    (changed(["gri", "stages"], [32, 32]), "asdm.gri: stages: 32 is named twice"),
    (changed(["gri", "stages"], [4]), "asdm.gri: stages: 4 is the height of no stage with self-attention"),
    (changed(["gri", "stages"], []), "asdm.gri: stages: must be an array"),
    (changed(["gri", "stages"], ["32"]), "asdm.gri: stages: must be an array"),
    (changed(["gri", "stages"], [1.5]), "asdm.gri: stages: must be an array"),
    (changed(["gri", "stages"], None), "asdm.gri: stages: must be an array"),
    (changed(["gri", "pool"], 3), "asdm.gri: pool: must divide the window of 8, is 3"),
    (changed(["gri", "pool"], 0), "asdm.gri: pool"),
    (changed(["gri", "window"], -8), "asdm.gri: window"),
    (changed(["gri", "window"], "8"), "asdm.gri: window"),
    (changed(["condconv", "routing"], "sigmoid"), 'asdm.condconv: routing: must be "full" or "timestep", is "sigmoid"'),
    (changed(["condconv", "routing"], None), "asdm.condconv: routing"),
    (changed(["condconv", "temperature"], 0), "asdm.condconv: temperature"),
    (changed(["condconv", "router"], 1), "asdm.condconv: router: unknown key"),
    (changed(["condconv", "experts"], {}), "asdm.condconv: experts: must be an object"),
    (changed(["condconv", "experts"], None), "asdm.condconv: experts: must be an object"),
    (changed(["condconv", "experts", "down_blocks.3.resnets.2"], FRESH["condconv"]["experts"][RESNET[2]]),
     'asdm.condconv: experts: "down_blocks.3.resnets.2" is no resnet of this model'),
    (changed(["condconv", "experts", "mid_block.resnets.0"], FRESH["condconv"]["experts"][RESNET[2]]),
     '"mid_block.resnets.0" is no resnet of this model'),
    (changed([*RESNET, "count"], 1), "asdm.condconv.experts: down_blocks.3.resnets.1: count"),
    (changed([*RESNET, "count"], 5), "asdm.condconv.experts: down_blocks.3.resnets.1: count"),
    (changed([*RESNET, "count"], None), "asdm.condconv.experts: down_blocks.3.resnets.1: count"),
    (changed([*RESNET, "kind"], 1), "asdm.condconv.experts: down_blocks.3.resnets.1: kind: unknown key"),
    (changed([*RESNET, "parts"], []), "down_blocks.3.resnets.1: parts: must be an array"),
    (changed([*RESNET, "parts"], ["conv_shortcut"]), '"conv_shortcut" is no part of this resnet'),
    (changed([*RESNET, "parts"], ["conv1", "conv1"]), "conv1 is named twice"),
    (changed([*RESNET, "parts"], ["conv1"]), "experts.1.conv2.weight"),        # more in the file
    (changed([*RESNET, "count"], 4), "experts.3.conv1.weight"),                # missing there
    (changed(["condconv", "routing"], "timestep"), "router.weight"),           # another shape
    (changed(["condconv"], None), "more than the configuration has"),
])
def test_what_a_configuration_may_say(asdm, models_dir, tmp_path_factory, tmp_path, light, message):
    if not hasattr(test_what_a_configuration_may_say, "model"):
        test_what_a_configuration_may_say.model = make_light(
            asdm, models_dir, tmp_path_factory.mktemp("say") / "light", ["--remove", "mid", "--condconv", "full"])
    model = tmp_path / "model"
    model.mkdir()
    for path in test_what_a_configuration_may_say.model.iterdir():
        if path.name != "unet":
            (model / path.name).symlink_to(path)
    (model / "unet").mkdir()
    (model / WEIGHTS).symlink_to(test_what_a_configuration_may_say.model / WEIGHTS)
    config = json.loads((test_what_a_configuration_may_say.model / "unet/config.json").read_text())
    config["asdm"] = light
    (model / "unet/config.json").write_text(json.dumps(config))
    done = asdm("inspect", model)
    assert done.returncode == (1 if message else 0), done.stderr
    assert not message or (message in done.stderr and "unet" in done.stderr)


def test_a_tensor_of_an_expert_is_missing(asdm, light, model_copy):
    model = model_copy(light("full"), replace=[WEIGHTS])
    tensors = tensors_of(model)
    del tensors["up_blocks.3.resnets.1.experts.1.conv2.bias"]
    tensors["up_blocks.0.resnets.1.experts.1.conv1.weight"] = np.zeros((1, 2, 3, 3), np.float32)
    (model / WEIGHTS).unlink()
    tensorfile.write(model / WEIGHTS, tensors)
    done = asdm("inspect", model)
    assert done.returncode == 1 and "up_blocks.3.resnets.1.experts.1.conv2.bias" in done.stderr
