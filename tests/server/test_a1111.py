"""The A1111 dialect: webuiapi from PyPI as it is, and plain requests for what it does not do."""

import base64
import hashlib
import io
import json
import re
import struct
import time
import zlib

import pytest

from server_client import in_thread

PIL = pytest.importorskip("PIL")
webuiapi = pytest.importorskip("webuiapi")
from PIL import Image, PngImagePlugin  # noqa: E402

SIDE = 64
SMALL = {"prompt": "a red house", "width": SIDE, "height": SIDE, "steps": 2, "seed": 7}
LONG = {**SMALL, "width": 256, "height": 256, "steps": 150}
NO_SUCH = "no such thing"


@pytest.fixture(scope="module")
def api(daemon):
    return webuiapi.WebUIApi(host="127.0.0.1", port=daemon.port, sampler="Euler a", steps=2)


def post(daemon, path, body, **options):
    return daemon.request("POST", f"/sdapi/v1/{path}", body, **options)


def get(daemon, path, **options):
    answer = daemon.request("GET", f"/sdapi/v1/{path}", **options)
    assert answer.status == 200, answer.text
    return answer.json()


def encode(image, info=None):
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=info)
    return base64.b64encode(data.getvalue()).decode()


def decode(text):
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def check_error(answer, status, word):
    assert answer.status == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert word in body["detail"]
    return body


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


# ---- pictures


def test_txt2img(api):
    result = api.txt2img(prompt="a red house", negative_prompt="blue", seed=7, width=SIDE, height=SIDE, cfg_scale=6.5)
    assert result.image.size == (SIDE, SIDE) and len(result.images) == 1
    info = result.info
    assert info["prompt"] == "a red house" and info["all_prompts"] == ["a red house"]
    assert info["negative_prompt"] == "blue" and info["all_negative_prompts"] == ["blue"]
    assert info["seed"] == 7 and info["all_seeds"] == [7] and info["all_subseeds"] == [info["subseed"]]
    assert (info["width"], info["height"], info["steps"], info["cfg_scale"]) == (SIDE, SIDE, 2, 6.5)
    assert info["sampler_name"] == "Euler a" and info["batch_size"] == 1
    assert re.fullmatch("[0-9a-f]{10}", info["sd_model_hash"]) and info["sd_model_name"]
    assert info["denoising_strength"] is None
    assert re.fullmatch(r"\d{14}", info["job_timestamp"]) and info["version"].startswith("asdm ")
    assert result.parameters["prompt"] == "a red house" and result.parameters["seed"] == 7
    assert result.parameters["n_iter"] == 1 and result.parameters["enable_hr"] is False
    assert "init_images" not in result.parameters
    assert info["infotexts"] == [result.image.info["parameters"]]
    assert result.image.info["parameters"] == (
        "a red house\nNegative prompt: blue\nSteps: 2, Sampler: Euler a, Schedule type: Automatic, CFG scale: 6.5, "
        f"Seed: 7, Size: {SIDE}x{SIDE}, Model hash: {info['sd_model_hash']}, Model: {info['sd_model_name']}, "
        f"Version: {info['version']}")


def test_same_request_same_bytes(daemon):
    first, second = (post(daemon, "txt2img", SMALL).json()["images"] for _ in range(2))
    assert first == second


def test_many(api):
    result = api.txt2img(prompt="x", seed=10, width=SIDE, height=SIDE, batch_size=2, n_iter=2)
    assert len(result.images) == 4
    assert result.info["all_seeds"] == [10, 11, 12, 13] and result.info["seed"] == 10
    assert result.info["batch_size"] == 2 and len(result.info["infotexts"]) == 4
    for seed, image in zip(result.info["all_seeds"], result.images):
        assert f"Seed: {seed}," in image.info["parameters"]
    alone = api.txt2img(prompt="x", seed=12, width=SIDE, height=SIDE)
    assert result.json["images"][2] == alone.json["images"][0]


def test_random_seed(api):
    result = api.txt2img(prompt="x", width=SIDE, height=SIDE)
    assert result.parameters["seed"] == -1
    assert result.info["seed"] >= 0


def test_schedule(api):
    result = api.txt2img(prompt="x", seed=1, width=SIDE, height=SIDE, sampler_name="DPM++ 2M Karras")
    assert "Sampler: DPM++ 2M, Schedule type: Karras," in result.image.info["parameters"]
    other = api.txt2img(prompt="x", seed=1, width=SIDE, height=SIDE, sampler_name="DPM++ 2M", scheduler="Karras")
    assert other.json["images"] == result.json["images"]


def test_img2img(api):
    source = Image.new("RGB", (SIDE, SIDE), (200, 30, 30))
    result = api.img2img(images=[source], prompt="x", seed=3, width=SIDE, height=SIDE, steps=4, denoising_strength=0.5)
    assert result.image.size == (SIDE, SIDE)
    assert result.info["denoising_strength"] == 0.5
    assert "Denoising strength: 0.5" in result.image.info["parameters"]
    assert result.parameters["init_images"] is None and result.parameters["mask"] is None
    assert result.parameters["resize_mode"] == 0 and "enable_hr" not in result.parameters


def test_inpaint(api):
    source = Image.new("RGB", (SIDE, SIDE), (200, 30, 30))
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    options = {"images": [source], "prompt": "x", "seed": 3, "width": SIDE, "height": SIDE, "steps": 4}
    whole = api.img2img(**options)
    masked = api.img2img(**options, mask_image=mask)
    inverted = api.img2img(**options, mask_image=mask, inpainting_mask_invert=1)
    assert len({result.json["images"][0] for result in (whole, masked, inverted)}) == 3


def test_raw_base64_and_data_url(daemon):
    image = encode(Image.new("RGB", (SIDE, SIDE), (1, 2, 3)))
    answers = [post(daemon, "img2img", {**SMALL, "init_images": [text]}).json()["images"]
               for text in (image, "data:image/png;base64," + image)]
    assert answers[0] == answers[1]


def test_send_images_false(daemon):
    body = post(daemon, "txt2img", {**SMALL, "send_images": False}).json()
    assert body["images"] == [] and body["parameters"]["send_images"] is False
    assert json.loads(body["info"])["all_seeds"] == [7]


def test_unknown_and_empty_fields(daemon):
    whole = post(daemon, "txt2img", SMALL).json()
    odd = post(daemon, "txt2img", {**SMALL, "no_such_field": [1, {"a": None}], "styles": None, "sampler_name": None,
                                   "alwayson_scripts": {"x": {"args": []}}})
    assert odd.status == 200 and odd.json()["images"] == whole["images"]
    assert "no_such_field" not in odd.json()["parameters"]


def test_texts_survive(daemon):
    prompt = 'quote " backslash \\ tab\t猫 é \u0001\nline: two, (a:1.2) [b]'
    body = post(daemon, "txt2img", {**SMALL, "prompt": prompt}).json()
    info = json.loads(body["info"])
    assert info["prompt"] == prompt == body["parameters"]["prompt"]
    assert decode(body["images"][0]).info["parameters"] == info["infotexts"][0]
    assert info["infotexts"][0].startswith(prompt + "\nSteps: 2,")


# ---- errors


@pytest.mark.parametrize("path, change, status, word", [
    ("txt2img", {"sampler_name": NO_SUCH}, 404, "sampler_name"),
    ("txt2img", {"sampler_index": NO_SUCH}, 404, "sampler"),
    ("txt2img", {"scheduler": NO_SUCH}, 422, "scheduler"),
    ("txt2img", {"steps": 0}, 422, "steps"),
    ("txt2img", {"steps": "many"}, 422, "steps"),
    ("txt2img", {"width": 65}, 422, "width"),
    ("txt2img", {"n_iter": 1000}, 422, "n_iter"),
    ("txt2img", {"prompt": 5}, 422, "prompt"),
    ("txt2img", {"override_settings": {"sd_model_checkpoint": NO_SUCH}}, 404, "sd_model_checkpoint"),
    ("txt2img", {"override_settings": 5}, 422, "override_settings"),
    ("img2img", {}, 404, "init_images"),
    ("img2img", {"init_images": []}, 404, "init_images"),
    ("img2img", {"init_images": ["no base64!"]}, 422, "init_images"),
    ("img2img", {"init_images": ["aGVsbG8="]}, 422, "init_images"),
    ("img2img", {"init_images": ["http://127.0.0.1/x.png"]}, 422, "init_images"),
    ("png-info", {"image": "aGVsbG8="}, 422, "image"),
    ("png-info", {"image": 5}, 422, "image"),
    ("png-info", {"image": None}, 422, "image"),
    ("options", {"sd_model_checkpoint": NO_SUCH}, 404, "sd_model_checkpoint"),
    ("options", {"sd_model_checkpoint": 5}, 422, "sd_model_checkpoint"),
])
def test_errors(daemon, path, change, status, word):
    body = change if path in ("png-info", "options") else {**SMALL, **change}
    check_error(post(daemon, path, body), status, word)


def test_malformed_body(daemon):
    for path in ("txt2img", "img2img", "png-info", "options"):
        answer = post(daemon, path, b"{\"prompt\":", headers={"Content-Type": "application/json"})
        check_error(answer, 400, "request body")


def test_client_sees_error(api):
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(prompt="x", sampler_name=NO_SUCH, width=SIDE, height=SIDE)
    assert caught.value.args[0] == 404 and "sampler_name" in caught.value.args[1]


# ---- progress and interrupt


def test_idle_progress(api):
    api.util_wait_for_ready(check_interval=0.1)
    progress = api.get_progress()
    assert progress["progress"] == 0 and progress["eta_relative"] == 0 and progress["current_image"] is None
    state = progress["state"]
    assert set(state) == {"skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp",
                          "job_no", "sampling_step", "sampling_steps"}
    assert state["job_count"] == 0 and state["sampling_steps"] == 0 and state["job"] == ""
    assert state["interrupted"] is False and state["skipped"] is False


def test_progress_preview_and_interrupt(daemon, api):
    wait = in_thread(lambda: post(daemon, "txt2img", LONG))
    running = wait_for(lambda: (lambda p: p if p["progress"] > 0 else None)(api.get_progress()))
    assert running["progress"] < 1 and running["eta_relative"] > 0
    assert running["state"]["job_count"] == 1 and running["state"]["sampling_steps"] == LONG["steps"]
    assert re.fullmatch(r"\d{14}", running["state"]["job_timestamp"])
    preview = wait_for(lambda: api.get_progress()["current_image"])
    assert decode(preview).size == (LONG["width"], LONG["height"])
    assert get(daemon, "progress?skip_current_image=true")["current_image"] is None
    before = time.monotonic()
    assert api.interrupt() == {}
    answer = wait()
    assert answer.status == 200 and time.monotonic() - before < 10
    assert answer.json()["images"] == [] and json.loads(answer.json()["info"])["infotexts"] == []
    api.util_wait_for_ready(check_interval=0.1)


def test_interrupt_keeps_what_is_made(daemon):
    """Pictures of one request can finish at different times only if the batch has no room for all of them; whatever is
    there comes back with its own seed and text."""
    wait = in_thread(lambda: post(daemon, "txt2img", {**LONG, "width": 128, "height": 128, "steps": 20, "n_iter": 10}))
    wait_for(lambda: get(daemon, "progress")["state"]["job_no"] > 0 or get(daemon, "progress")["progress"] > 0.8)
    post(daemon, "interrupt", None)
    body = wait().json()
    info = json.loads(body["info"])
    assert len(body["images"]) == len(info["all_seeds"]) == len(info["infotexts"])
    for text, seed, infotext in zip(body["images"], info["all_seeds"], info["infotexts"]):
        assert decode(text).info["parameters"] == infotext and f"Seed: {seed}," in infotext


def test_skip(daemon, api):
    wait = in_thread(lambda: post(daemon, "txt2img", LONG))
    wait_for(lambda: api.get_progress()["state"]["job_count"] == 1)
    assert api.skip() is None
    assert wait().status == 200


def test_interrupt_leaves_other_dialects_alone(daemon):
    wait = in_thread(lambda: daemon.job(steps=100, width=128, height=128))
    wait_for(lambda: daemon.request("GET", "/v1/overview").json()["active_pictures"])
    assert get(daemon, "progress")["state"]["job_count"] == 0
    assert post(daemon, "interrupt", None).status == 200
    answer = wait()
    assert answer.status == 200 and answer.json()["status"] == "succeeded"


def test_idle_interrupt(api):
    assert api.interrupt() == {} and api.skip() is None


def count_gone(daemon):
    found = re.search(r'^asdm_cancelled_total{reason="gone"} (\d+)', daemon.request("GET", "/metrics").text, re.M)
    return int(found[1]) if found else 0


def test_client_that_goes_away(daemon):
    """Its job leaves the batch."""
    before = count_gone(daemon)
    connection = daemon.connect()
    connection.request("POST", "/sdapi/v1/txt2img", json.dumps({**LONG, "n_iter": 4}),
                       {"Content-Type": "application/json"})
    wait_for(lambda: get(daemon, "progress")["progress"] > 0)
    connection.close()
    wait_for(lambda: count_gone(daemon) > before, seconds=10)
    wait_for(lambda: get(daemon, "progress")["state"]["job_count"] == 0, seconds=10)


# ---- png-info


def test_png_info(api):
    result = api.txt2img(prompt="a red house, big", negative_prompt="blue", seed=7, width=SIDE, height=SIDE)
    back = api.png_info(result.image)
    assert back.info == result.image.info["parameters"]
    assert back.parameters["Prompt"] == "a red house, big" and back.parameters["Negative prompt"] == "blue"
    assert back.parameters["Seed"] == "7" and back.parameters["Sampler"] == "Euler a"
    assert back.parameters["Size-1"] == str(SIDE) and back.parameters["Size-2"] == str(SIDE)
    assert back.json["items"]["parameters"] == back.info


def test_png_info_of_others(daemon):
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "café")
    info.add_itxt("Title", "猫")
    image = Image.new("RGB", (4, 4))
    body = post(daemon, "png-info", {"image": "data:image/png;base64," + encode(image, info)}).json()
    assert body["info"] == "" and body["items"] == {"Software": "café", "Title": "猫"}
    assert body["parameters"] == {"Prompt": "", "Negative prompt": ""}
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "hidden", zip=True)
    check_error(post(daemon, "png-info", {"image": encode(image, info)}), 422, "compressed")


def test_png_info_damaged(daemon):
    """A length that points beyond the end, and one that is all ones."""
    data = base64.b64decode(encode(Image.new("RGB", (4, 4))))
    body = b"parameters\0text"
    chunk = struct.pack(">I", 1000) + b"tEXt" + body + struct.pack(">I", zlib.crc32(b"tEXt" + body))
    for damaged in (data[:33] + chunk, data[:33] + b"\xff" * 4 + data[37:], data[:20], data[:8]):
        check_error(post(daemon, "png-info", {"image": base64.b64encode(damaged).decode()}), 422, "damaged")


# ---- lists


def test_samplers_and_schedulers(daemon, api):
    names = api.util_get_sampler_names()
    assert {"Euler a", "Euler", "DPM++ 2M", "DDIM", "UniPC", "LCM"} <= set(names)
    assert all(set(entry) == {"name", "aliases", "options"} for entry in api.get_samplers())
    schedulers = api.util_get_scheduler_names()
    assert {"automatic", "karras", "exponential", "sgm_uniform"} == set(schedulers)
    assert {"name", "label", "aliases"} <= set(api.get_schedulers()[0])
    for name in names:  # every name is taken
        answer = post(daemon, "txt2img", {**SMALL, "sampler_name": name})
        assert answer.status == 200, answer.text
        assert json.loads(answer.json()["info"])["sampler_name"] == name
    for name in schedulers:
        assert post(daemon, "txt2img", {**SMALL, "sampler_name": "Euler", "scheduler": name}).status == 200


def test_models_and_options(daemon, api):
    models = api.get_sd_models()
    assert set(models[0]) == {"title", "model_name", "hash", "sha256", "filename", "config"}
    assert models[0]["title"] == f"{models[0]['model_name']} [{models[0]['hash']}]"
    assert re.fullmatch("[0-9a-f]{64}", models[0]["sha256"]) and models[0]["sha256"].startswith(models[0]["hash"])
    assert "/" not in models[0]["filename"]
    assert api.util_get_model_names() == [model["title"] for model in models]
    assert api.util_get_current_model() == models[0]["title"]
    api.util_set_model(models[0]["model_name"])
    options = api.get_options()
    assert options["sd_model_checkpoint"] == models[0]["title"]
    assert api.set_options({**options, "some_option": {"deep": [1]}, "CLIP_stop_at_last_layers": 2}) is None
    assert api.get_options() == options


@pytest.mark.parametrize("model", [0, 1])
def test_choosing_a_model(start_daemon, models_dir, model):
    """By options for this caller, by override_settings for one request."""
    names = ["first", "second"]
    daemon = start_daemon(models=[{"name": name, "path": str(models_dir)} for name in names])
    api = webuiapi.WebUIApi(host="127.0.0.1", port=daemon.port)
    title = next(entry["title"] for entry in api.get_sd_models() if entry["model_name"] == names[model])
    api.util_set_model(title)
    assert api.util_get_current_model() == title
    for settings in ({}, None, {"other": 1}, {"sd_model_checkpoint": None}):
        info = json.loads(post(daemon, "txt2img", {**SMALL, "override_settings": settings}).json()["info"])
        assert info["sd_model_name"] == names[model]
    for override in names:
        info = json.loads(post(daemon, "txt2img", {
            **SMALL, "override_settings": {"sd_model_checkpoint": override}}).json()["info"])
        assert info["sd_model_name"] == override
    image = encode(Image.new("RGB", (SIDE, SIDE)))
    info = json.loads(post(daemon, "img2img", {**SMALL, "init_images": [image]}).json()["info"])
    assert info["sd_model_name"] == names[model]


def test_empty_lists(daemon, api):
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    for call in (api.get_sd_vae, api.get_latent_upscale_modes, api.get_loras, api.get_hypernetworks,
                 api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles, api.get_artists,
                 api.get_artist_categories):
        assert call() == []
    assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["None"]
    assert get(daemon, "script-info") == [] and get(daemon, "extensions") == []
    assert isinstance(api.get_cmd_flags(), dict)
    assert 0 < api.get_memory()["ram"]["free"] <= api.get_memory()["ram"]["total"]


def test_checkpoint_calls(daemon, api):
    assert api.refresh_checkpoints() is None
    for path in ("unload-checkpoint", "reload-checkpoint"):
        assert post(daemon, path, None).json() == {}
        assert post(daemon, path, {}).json() == {}


# ---- callers


def basic(name, key):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()}


def test_callers_are_apart(start_daemon, models_dir, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("ann", "bob")))
    daemon = start_daemon(models=[{"name": name, "path": str(models_dir)} for name in ("first", "second")],
                          api_keys=str(keys), wait="listening")
    wait_for(lambda: daemon.request("GET", "/readyz").status == 200, seconds=180)
    check_error(post(daemon, "txt2img", SMALL), 401, "key")
    ann = webuiapi.WebUIApi(host="127.0.0.1", port=daemon.port, username="ann", password="ann")
    bob = webuiapi.WebUIApi(host="127.0.0.1", port=daemon.port, username="bob", password="bob")
    ann.set_options({"sd_model_checkpoint": "second"})
    assert "second" in ann.util_get_current_model() and "first" in bob.util_get_current_model()

    wait = in_thread(lambda: post(daemon, "txt2img", {**LONG, "steps": 40}, headers=basic("ann", "ann")))
    wait_for(lambda: ann.get_progress()["state"]["job_count"] == 1)
    assert bob.get_progress()["state"]["job_count"] == 0
    bob.interrupt()
    answer = wait()
    assert answer.status == 200 and len(answer.json()["images"]) == 1
    assert json.loads(answer.json()["info"])["sd_model_name"] == "second"
