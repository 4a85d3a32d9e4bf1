"""asdm analyze: damage against diffusers and against the pruned model itself, what an interruption leaves, what is refused;
and prune --speedup, which chooses by it."""
import html.parser
import itertools
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

import compare
import tensorfile

PAIRS = ["pair8", "pair4", "pair2", "pair1", "mid"]  # of the demo model for 8x8 latents: what --remove can name
UNITS = [*PAIRS, "gri8"]  # and the stage whose map a window of 4 does not cover
GRI = ("--gri-window", "4", "--gri-pool", "2")
TRIALS = len(UNITS) * (len(UNITS) + 1) // 2
PROMPTS = ["a red house in the snow", 'a "small" boat <b>on the sea & at night']


@pytest.fixture(scope="module")
def model(models_dir, tmp_path_factory):
    """The demo model, said to be for pictures of 64x64, so that everything takes a moment."""
    directory = tmp_path_factory.mktemp("analyze") / "model"
    shutil.copytree(models_dir, directory, ignore=shutil.ignore_patterns("*.png", "prompts.txt"))
    path = directory / "unet/config.json"
    os.chmod(path, 0o644)
    config = json.loads(path.read_text())
    config["sample_size"] = 8
    path.write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("# two of them\n\n" + PROMPTS[0] + "\r\n   " + PROMPTS[1] + "  \n")
    return path


def small(model, prompts, *arguments):
    return ("analyze", model, "--prompts", prompts, "--steps", "2", "--runs", "1", "--guidance-scale", "5", "--threads", "1",
            *GRI, *arguments)


@pytest.fixture(scope="module")
def done(asdm, model, prompts, tmp_path_factory):
    """A whole analysis: its files, what it printed, and the JSON read."""
    folder = tmp_path_factory.mktemp("done")
    paths = {name: folder / name for name in ("a.json", "a.html", "latents.safetensors")}
    run = asdm(*small(model, prompts, "--json", paths["a.json"], "--html", paths["a.html"], "--save-latents",
                      paths["latents.safetensors"]))
    assert run.returncode == 0, run.stderr
    return {**paths, "run": run, "json": json.loads(paths["a.json"].read_text())}


def trial(analysis, *removed):
    return next(t for t in analysis["trials"] if set(t["removed"]) == set(removed))


# --- what is written


def test_json(done, asdm, model):
    a = done["json"]
    assert a["asdm_analysis"] == 1 and a["complete"] is True and a["prompts"] == PROMPTS
    assert (a["device"], a["dtype"], a["rows"], a["runs"], a["steps"], a["width"], a["height"]) == ("cpu", "fp32", 2, 1, 2, 64, 64)
    assert [unit["name"] for unit in a["units"]] == UNITS
    assert [unit["kind"] for unit in a["units"]] == ["pair"] * 4 + ["mid", "gri"]
    assert (a["gri_window"], a["gri_pool"]) == (4, 2) and [unit["name"] for unit in a["covered"]] == ["gri4", "gri2"]
    assert "gri4     changes nothing: a window of 4 covers the map" in done["run"].stdout
    assert a["calibration_rows"] == len(PROMPTS) * a["evaluations"] * 2
    assert a["unet"]["ms"] == pytest.approx(np.median([t["full_ms"] for t in a["trials"]]))
    for unit in a["units"]:
        t = trial(a, unit["name"])
        assert unit["damage"] == t["damage"]["mean"] > 0
        assert unit["saved_ms"] == pytest.approx(a["unet"]["ms"] * (1 - t["ms"] / t["full_ms"]))
        assert unit["parameters"] == a["unet"]["parameters"] - t["parameters"] and (unit["parameters"] > 0) == (unit["kind"] != "gri")
        assert t["gmac"] + unit["gmac"] == pytest.approx(a["unet"]["gmac"])
        how = ("--gri", "8", *GRI) if unit["kind"] == "gri" else ("--remove", unit["name"])
        shown = asdm("prune", model, *how, "--dry-run").stdout.splitlines()
        assert int(shown[2].split()[1]) == t["parameters"] and float(shown[2].split()[2]) == pytest.approx(t["gmac"], abs=0.006)
        d = t["damage"]
        assert d["min"] <= d["quartiles"][0] <= d["quartiles"][1] <= d["quartiles"][2] <= d["max"]
        blocks = [block["name"] for block in t["blocks"]]
        assert blocks == [f"down_blocks.{i}" for i in range(4)] + ["mid_block"] * (unit["kind"] != "mid") + [f"up_blocks.{i}" for i in range(4)]
        assert f"{unit['name']} " in done["run"].stdout


def test_greedy_order_is_what_was_measured(done):
    """Every round measures each unit that is left on top of those removed, and removes the cheapest."""
    a, removed = done["json"], []

    def cost(*units):
        t = trial(a, *units)
        return t["damage"]["mean"], 1 - t["ms"] / t["full_ms"]

    assert len(a["order"]) == len(UNITS) and len(a["trials"]) == TRIALS
    for step in a["order"]:
        damage, saved = cost(*removed) if removed else (0, 0)

        def score(unit):
            d, s = cost(*removed, unit)
            return (0, (d - damage) / (s - saved)) if s - saved > 0.001 else (1, d - damage)

        assert step["add"] == min((unit for unit in UNITS if unit not in removed), key=score)
        removed.append(step["add"])
        assert set(step["removed"]) == set(removed) and step["damage"] == trial(a, *removed)["damage"]["mean"]


def test_html(done):
    text = done["a.html"].read_text()
    tags, words = [], []

    class Parser(html.parser.HTMLParser):
        def handle_data(self, data):
            words.append(data)

        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            assert not {"src", "href", "onclick", "onload"} & {name for name, _ in attributes}

    Parser().feed(text)
    assert tags.count("svg") == 2 and not {"script", "b"} & set(tags) and "http" not in text and "@import" not in text
    assert all(unit in text for unit in UNITS) and PROMPTS[1] in words
    assert "gri2 changes nothing: a window of 4 covers the map." in words
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


# --- damage


def summary(numbers):
    return {"mean": np.mean(numbers), "deviation": np.std(numbers), "min": np.min(numbers), "max": np.max(numbers)}


def check_damage(got, numbers, what):
    for key, want in summary(numbers).items():
        assert got[key] == pytest.approx(want, rel=2e-3, abs=1e-5), f"{what}: {key}"
    assert got["quartiles"] == pytest.approx(np.quantile(numbers, [0.25, 0.5, 0.75]), rel=2e-3, abs=1e-5), what


def calibration_rows(path):
    """(latents [1,4,h,w], timestep, embeddings [1,77,width]) of every row: the empty prompt's first."""
    data = tensorfile.read(path)
    latents, timesteps, embeds = (np.asarray(data[name]) for name in ("latents", "timesteps", "embeds"))
    for point in range(len(latents)):
        for prompt in (len(embeds) - 1, point // len(timesteps)):
            yield latents[point:point + 1], timesteps[point % len(timesteps)], embeds[prompt:prompt + 1]


def change(light, full):
    return float(np.linalg.norm(light - full) / np.linalg.norm(full))


def test_damage_against_diffusers(done, asdm, model, tmp_path):
    """Predictions and blocks of teacher and pruned student in PyTorch, on the same latents."""
    diffusers = pytest.importorskip("diffusers")
    import torch

    torch.set_num_threads(1)

    def outputs(directory):
        unet, taps, found = diffusers.UNet2DConditionModel.from_pretrained(directory / "unet").float().eval(), {}, []

        def watch(name, module):
            module.register_forward_hook(lambda m, i, out: taps.__setitem__(name, (out[0] if isinstance(out, tuple) else out).numpy()))

        for side in ("down_blocks", "up_blocks"):
            for i, block in enumerate(getattr(unet, side)):
                watch(f"{side}.{i}", block)
        if unet.mid_block is not None:
            watch("mid_block", unet.mid_block)
        with torch.no_grad():
            for latents, timestep, embeds in calibration_rows(done["latents.safetensors"]):
                noise = unet(torch.tensor(latents), torch.tensor([timestep]), torch.tensor(embeds)).sample.numpy()
                found.append({"noise": noise, **taps})
        return found

    full = outputs(model)
    assert len(full) == done["json"]["calibration_rows"]
    for unit in ("pair4", "mid"):
        assert asdm("prune", model, tmp_path / unit, "--remove", unit).returncode == 0
        light, t = outputs(tmp_path / unit), trial(done["json"], unit)
        check_damage(t["damage"], [change(a["noise"], b["noise"]) for a, b in zip(light, full)], unit)
        for block in t["blocks"]:
            check_damage(block["damage"], [change(a[block["name"]], b[block["name"]]) for a, b in zip(light, full)],
                         f"{unit}, {block['name']}")


def test_damage_of_a_set_is_that_of_the_pruned_model(done, asdm, model, prompts, stages, cpu, tmp_path):
    """The light UNet in memory is the one that prune writes."""
    removed = ("pair4", "mid", "gri8")
    run = asdm(*small(model, prompts, "--sets", "pair4,mid,gri8;pair4", "--json", tmp_path / "sets.json"))
    assert run.returncode == 0, run.stderr
    a = json.loads((tmp_path / "sets.json").read_text())
    assert [t["removed"] for t in a["trials"]] == [list(removed), ["pair4"]] and a["order"] == []
    assert "pair4,mid,gri8" in run.stdout
    assert trial(a, "pair4")["damage"] == trial(done["json"], "pair4")["damage"]
    assert asdm("prune", model, tmp_path / "out", "--remove", "pair4,mid", "--gri", "8", *GRI).returncode == 0
    run = asdm(*small(model, prompts, "--sets", "pair4,mid,gri8", "--steps", "1", "--guidance-scale", "1", "--save-latents",
                      tmp_path / "one.safetensors", "--json", tmp_path / "one.json"))
    assert run.returncode == 0, run.stderr
    damage = trial(json.loads((tmp_path / "one.json").read_text()), *removed)["damage"]
    data = {name: np.asarray(value) for name, value in tensorfile.read(tmp_path / "one.safetensors").items()}
    numbers = []
    for row, latents in enumerate(data["latents"]):  # without guidance no rows of the empty prompt
        prompt, step = divmod(row, len(data["timesteps"]))
        inputs = {"unet_in": latents[None], "timestep": data["timesteps"][step:step + 1], "prompt_embeds": data["embeds"][prompt:prompt + 1]}
        light, full = (np.asarray(stages(path, cpu, "fp32", inputs)["unet_out"]) for path in (tmp_path / "out", model))
        numbers.append(change(light, full))
    check_damage(damage, numbers, "pair4,mid,gri8")


def test_trajectories_are_those_of_generate(done, asdm, model, tmp_path):
    """The first latents are the seed's noise; the second prompt has the next seed's."""
    data = tensorfile.read(done["latents.safetensors"])
    steps = len(np.asarray(data["timesteps"]))
    latents = np.asarray(data["latents"])
    assert len(latents) == len(PROMPTS) * steps and not np.array_equal(latents[0], latents[steps])
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet").float().eval()
    scheduler = diffusers.PNDMScheduler.from_pretrained(model / "scheduler")
    scheduler.set_timesteps(2)
    embeds = torch.tensor(np.asarray(data["embeds"])[[len(PROMPTS), 1]])
    x = torch.tensor(latents[steps:steps + 1])
    with torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            compare.check_rel_l2(latents[steps + k], x[0].numpy(), 1e-4, f"latents {k}")
            plain, guided = unet(torch.cat([x, x]), t, embeds).sample
            x = scheduler.step((plain + 5 * (guided - plain))[None], t, x).prev_sample


# --- interruptions


def trials_in(path):
    try:
        return json.loads(path.read_text())["trials"]
    except FileNotFoundError:
        return []


def stop_midway(asdm, arguments, path, number, how):
    process = asdm.start(*arguments)
    deadline = time.monotonic() + 60
    while len(trials_in(path)) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr.decode()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_goes_on_where_it_was(done, asdm, model, prompts, tmp_path, how):
    path = tmp_path / "a.json"
    arguments = small(model, prompts, "--json", path)
    code, stderr = stop_midway(asdm, arguments, path, 3, how)
    kept = json.loads(path.read_text())  # whole, whatever happened
    assert kept["complete"] is False and 3 <= len(kept["trials"]) < TRIALS
    if how == signal.SIGINT:
        assert code == 1 and "the same command goes on" in stderr
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    run = asdm(*arguments)
    assert run.returncode == 0 and f"already had {len(kept['trials'])} of" in run.stderr
    whole = json.loads(path.read_text())
    assert whole["complete"] is True and whole["trials"][:len(kept["trials"])] == kept["trials"]  # times, too: not repeated
    assert "; now pair8\n" not in run.stderr
    uninterrupted = {tuple(t["removed"]): t for t in done["json"]["trials"]}
    for t in whole["trials"]:  # times differ, and with them perhaps the order
        other = uninterrupted.get(tuple(t["removed"]))
        assert not other or (t["damage"], t.get("blocks"), t["parameters"]) == (other["damage"], other.get("blocks"), other["parameters"])
    assert len(whole["order"]) == len(UNITS)


def test_finished_work_is_not_repeated(done, asdm, model, prompts):
    before = done["json"]
    run = asdm(*small(model, prompts, "--json", done["a.json"]))
    assert run.returncode == 0 and f"already had {TRIALS} of {TRIALS}" in run.stderr and "trajectories" not in run.stderr
    assert json.loads(done["a.json"].read_text()) == before


def test_stale_state_is_not_used(done, asdm, model, prompts, tmp_path):
    path = tmp_path / "a.json"
    shutil.copy(done["a.json"], path)
    base = ("--json", path, "--sets", "mid")
    for arguments, message in [(("--seed", "1"), "another seed"), (("--steps", "3"), "number of steps: 2, not 3"),
                               (("--guidance-scale", "4"), "guidance scale: 5, not 4"), (("--rows", "4"), "number of rows"),
                               (("--gri-pool", "4"), "pool of global-regional attention: 2, not 4"),
                               (("--device", "ref"), "device: cpu, not ref")]:
        run = asdm(*small(model, prompts, *base, *arguments))
        assert run.returncode == 2 and message in run.stderr and "--force" in run.stderr, run.stderr
    other = tmp_path / "other.txt"
    other.write_text("a cactus\na tent\n")
    assert "of other prompts" in asdm(*small(model, other, *base)).stderr
    assert path.read_bytes() == done["a.json"].read_bytes()


@pytest.mark.parametrize("what", ["weight", "layer", "tokenizer", "scheduler"])
def test_a_changed_model_is_another(done, asdm, model, prompts, tmp_path, what):
    """A bit of a weight; a number of unet/config.json that no weight shows; how prompts are numbered; the noise schedule."""
    path, changed = tmp_path / "a.json", tmp_path / "changed"
    shutil.copy(done["a.json"], path)
    shutil.copytree(model, changed)
    name = {"weight": "unet/diffusion_pytorch_model.safetensors", "layer": "unet/config.json", "tokenizer": "tokenizer/vocab.json",
            "scheduler": "scheduler/scheduler_config.json"}[what]
    os.chmod(changed / name, 0o644)
    data = bytearray((changed / name).read_bytes())
    if what == "weight":
        data[-2] ^= 1
    elif what == "tokenizer":
        numbers = json.loads(data)
        numbers["red</w>"], numbers["snow</w>"] = numbers["snow</w>"], numbers["red</w>"]
        data = json.dumps(numbers).encode()
    else:
        data = json.dumps({**json.loads(data), **({"norm_eps": 0.02} if what == "layer" else {"beta_end": 0.013})}).encode()
    (changed / name).write_bytes(data)
    run = asdm(*small(changed, prompts, "--json", path, "--sets", "mid"))
    assert run.returncode == 2 and "is of another model" in run.stderr and "--force" in run.stderr
    if what == "weight":
        run = asdm(*small(changed, prompts, "--json", path, "--sets", "mid", "--force"))
        assert run.returncode == 0 and [t["removed"] for t in json.loads(path.read_text())["trials"]] == [["mid"]]


def test_hostile_names(asdm, model, tmp_path):
    """Of a model and in prompts: valid JSON, and no markup of theirs in the report."""
    (tmp_path / "p.txt").write_text('</li><script>x</script>\t"\\ \x1b[2J\n')
    hostile = os.fsencode(tmp_path) + b'/<b onclick="x">&\\\x01\xff'
    os.symlink(os.fsencode(model), hostile)
    run = asdm("analyze", hostile, "--prompts", tmp_path / "p.txt", "--steps", "1", "--runs", "1", "--threads", "1", "--sets", "mid",
               "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert run.returncode == 0, run.stderr
    a = json.loads((tmp_path / "a.json").read_bytes().decode("utf-8"))
    assert a["model"].endswith('/<b onclick="x">&\\\x01\ufffd') and a["prompts"] == ['</li><script>x</script>\t"\\ \x1b[2J']
    page = (tmp_path / "a.html").read_bytes()
    assert b"<script" not in page and b"<b " not in page and page.count(b"<li>") == 1 and not set(page) & set(b"\x01\x1b")


# --- what is refused


@pytest.mark.parametrize("content, message", [
    (None, "No such file"),
    (b"", "has no prompt"),
    (b"# only\n\n   \n", "has no prompt"),
    (b"a house\n\nb\xff\n", "line 3: is no UTF-8 text"),
    (b"a\0b\n", "line 1: is no UTF-8 text"),
    (b"a\nb\n" + b"x" * 5000, "line 3: is longer than 4096 bytes"),
])
def test_bad_prompts(asdm, model, tmp_path, content, message):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    run = asdm("analyze", model, "--prompts", path)
    assert run.returncode == 1 and f"{path}: {message}" in run.stderr


@pytest.mark.parametrize("arguments, code, message", [
    (["--device", "gpu"], 2, "gpu"),
    (["--json", "missing/a.json"], 1, "missing"),
    (["--html", "missing/a.html"], 1, "missing"),
    (["--save-latents", "missing/l.safetensors"], 1, "missing"),
    (["--sets", "gri8"], 2, '"gri8" is no unit of this model, which has pair8, pair4, pair2, pair1, mid'),
    (["--gri-window", "9"], 2, "pool: must divide the window of 9, is 4"),
    (["--sets", "mid;;pair8"], 2, "must name at least one unit"),
    (["--rows", "65"], 2, "from 1 to 64"),
    (["--width", "65"], 2, "multiples of 8"),
    (["--speedup", "2", "--budget-ms", "3"], 2, "only one"),
])
def test_wrong_arguments(asdm, model, tmp_path, arguments, code, message):
    run = asdm("analyze", model, *arguments, cwd=tmp_path)
    assert run.returncode == code and message in run.stderr, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else_is_kept(asdm, model, prompts, tmp_path):
    path = tmp_path / "mine.json"
    for content in ('{"mine": 1}', "not JSON", '{"asdm_analysis": 99}'):
        path.write_text(content)
        run = asdm(*small(model, prompts, "--json", path, "--sets", "mid"))
        assert run.returncode == 2 and str(path) in run.stderr and path.read_text() == content


def test_usage(asdm):
    assert asdm("analyze").returncode == 2
    shown = asdm("analyze", "--help").stdout
    assert "--prompts FILE" in shown and "asdm analyze deploy/models/scenes-256" in shown


def test_prompts_beside_the_model(asdm, model, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(model, own)
    (own / "prompts.txt").write_text("a snowman\n")
    run = asdm("analyze", own, "--steps", "1", "--runs", "1", "--threads", "1", "--sets", "mid", "--json", tmp_path / "a.json")
    assert run.returncode == 0 and json.loads((tmp_path / "a.json").read_text())["prompts"] == ["a snowman"]


# --- prune --speedup


@pytest.fixture
def made_up(done, tmp_path):
    """made_up(gri): an analysis that has every set, with made-up numbers: damage and milliseconds of a whole of 100 add up."""
    def make(gri=(0.9, 0)):
        a = json.loads(done["a.json"].read_text())
        numbers = dict(zip(UNITS, [(0.4, 20), (0.1, 10), (0.06, 5), (0.3, 10), (0.02, 5), gri]))
        base = trial(a, "mid")
        a["trials"], a["order"] = [], []
        for size in range(1, len(UNITS) + 1):
            for removed in itertools.combinations(UNITS, size):
                t = json.loads(json.dumps({**base, "removed": removed, "full_ms": 100}))
                t.pop("blocks", None)
                t["damage"]["mean"] = sum(numbers[unit][0] for unit in removed)
                t["ms"] = 100 - sum(numbers[unit][1] for unit in removed)
                a["trials"].append(t)
        path = tmp_path / "made-up.json"
        path.write_text(json.dumps(a))
        return path
    return make


@pytest.mark.parametrize("target, removed", [(("--speedup", "1.05"), ["mid"]), (("--budget-ms", "90"), ["pair4"]),
                                             (("--budget-ms", "80"), ["pair4", "pair2", "mid"]),
                                             (("--speedup", "1.9999"), PAIRS)])
def test_speedup_from_an_analysis(asdm, model, made_up, tmp_path, target, removed):
    """By hand: 90 ms are pair4 (0.1) or pair2 and mid (0.08)."""
    removed = ["pair2", "mid"] if removed == ["pair4"] else removed
    path = made_up()
    before = path.read_bytes()
    run = asdm("prune", model, tmp_path / "out", "--analysis", path, *target)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["asdm"]["lineage"]["removed"] == removed
    assert f"chosen   {','.join(removed)}:" in run.stdout and "trajectories" not in run.stderr
    assert path.read_bytes() == before


def light_config(path):
    return json.loads((path / "unet/config.json").read_text())["asdm"]


def test_speedup_with_gri(asdm, model, made_up, tmp_path):
    """Chosen by itself; given beside what is chosen; and with what is removed as experts."""
    run = asdm("prune", model, tmp_path / "a", "--analysis", made_up((0.01, 30)), "--speedup", "1.4", "--condconv", "full")
    assert run.returncode == 0 and "chosen   gri8:" in run.stdout and "no layer is taken out that could be an expert" in run.stderr
    assert light_config(tmp_path / "a")["gri"] == {"stages": [8], "window": 4, "pool": 2}
    assert light_config(tmp_path / "a")["lineage"]["removed"] == [] and "condconv" not in light_config(tmp_path / "a")
    run = asdm("prune", model, tmp_path / "b", "--analysis", made_up(), "--speedup", "1.05", "--gri", "8,4", "--condconv", "timestep")
    assert run.returncode == 0 and "chosen   mid,gri8:" in run.stdout, run.stderr
    light = light_config(tmp_path / "b")
    assert light["gri"]["stages"] == [8, 4] and light["lineage"]["removed"] == ["mid"] and light["condconv"]["routing"] == "timestep"
    run = asdm("prune", model, "--dry-run", "--analysis", made_up(), "--speedup", "1", "--gri", "8")  # is met by what is given
    assert run.returncode == 0 and "chosen   gri8:" in run.stdout and "trajectories" not in run.stderr


def test_speedup_out_of_reach(asdm, model, made_up, tmp_path):
    out, path = tmp_path / "out", made_up()
    run = asdm("prune", model, out, "--analysis", path, "--speedup", "2.5")
    assert run.returncode == 2 and "2.5 cannot be reached" in run.stderr and "gives is 2 (50 ms, not 100)" in run.stderr
    run = asdm("prune", model, out, "--analysis", path, "--budget-ms", "45")
    assert run.returncode == 2 and "leads to is 50 ms" in run.stderr and not out.exists()


def test_speedup_dry_run_and_usage(asdm, model, made_up, tmp_path):
    path = made_up()
    run = asdm("prune", model, "--dry-run", "--analysis", path, "--speedup", "1.05")
    assert run.returncode == 0 and "speed-up 1.053" in run.stdout and "after" in run.stdout
    (tmp_path / "there").mkdir()
    for arguments, message in [(["--speedup", "2", "--remove", "mid"], "only one"), (["--speedup", "2", "--budget-ms", "2"], "only one"),
                               (["--remove", "mid", "--analysis", path], "go with --speedup"), (["--speedup", "0.5"], "from 1"),
                               (["--speedup", "1.1", "--gri", "64"], "64 is the height of no stage"),
                               (["--speedup", "1.1", "--gri-window", "6"], "pool: must divide the window of 6"),
                               (["--speedup", "1.1", "--condconv", "half"], "must be full, timestep or off")]:
        run = asdm("prune", model, tmp_path / "out", *arguments)
        assert run.returncode == 2 and message in run.stderr and "measured" not in run.stderr, run.stderr
    run = asdm("prune", model, tmp_path / "there", "--speedup", "1.1")
    assert run.returncode == 2 and "exists" in run.stderr and "measured" not in run.stderr
    path.write_text("{}")
    assert "is no analysis" in asdm("prune", model, tmp_path / "out", "--speedup", "2", "--analysis", path).stderr


def test_speedup_measures_by_itself(asdm, model, made_up, prompts):
    """Where the analysis is of another model, as where there is none."""
    path = made_up()
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0123456789abcdef"}))
    run = asdm("prune", model, "--dry-run", "--budget-ms", "1e8", "--prompts", prompts, "--threads", "1", "--analysis", path)
    assert run.returncode == 0, run.stderr
    assert "now trajectories" in run.stderr and "chosen   " in run.stdout
    assert "is of another model" in run.stderr and "measuring anew" in run.stderr
