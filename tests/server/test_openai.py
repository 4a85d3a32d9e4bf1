"""The OpenAI dialect, by OpenAI's own Python client, unmodified."""
import base64
import io
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image

EXTRAS = {"steps": 3, "seed": 7, "sampler": "euler", "cfg_scale": 3}
SIZE = "64x64"


@pytest.fixture
def client(daemon):
    with openai.OpenAI(api_key="none", base_url=daemon.url.rstrip("/") + "/v1", max_retries=3, timeout=120) as client:
        yield client


def pixels(b64):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64, validate=True))).convert("RGB"))


def png_bytes(array, name="image.png"):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return (name, out.getvalue(), "image/png")


def picture(alpha_hole=False):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (64, 64, 4 if alpha_hole else 3), dtype=np.uint8)
    if alpha_hole:
        array[..., 3] = 255
        array[:, 32:, 3] = 0
    return array


def generate(client, **more):
    extra = {**EXTRAS, **more.pop("extra_body", {})}
    return client.images.generate(**{"prompt": "a red square", "size": SIZE, "extra_body": extra, **more})


def edit(client, **more):
    extra = {**EXTRAS, "strength": 0.9, **more.pop("extra_body", {})}
    return client.images.edit(**{"prompt": "a red square", "image": png_bytes(picture()), "size": SIZE,
                                 "extra_body": extra, **more})


def test_models(client):
    models = list(client.models.list())
    assert models and all(m.object == "model" and m.owned_by for m in models)
    assert client.models.retrieve(models[0].id).id == models[0].id
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("dall-e-2")
    assert caught.value.code == "model_not_found"


def test_b64_json_is_the_default(client):
    raw = client.images.with_raw_response.generate(prompt="a red square", size=SIZE, extra_body=EXTRAS)
    assert raw.headers["x-request-id"].startswith("req_")
    for name in ("x-queue-time", "x-inference-time", "x-total-time"):
        assert float(raw.headers[name]) >= 0
    answer = raw.parse()
    assert answer.created > 1e9 and len(answer.data) == 1 and answer.data[0].url is None
    assert (answer.output_format, answer.size, answer.background) == ("png", SIZE, "opaque")
    assert pixels(answer.data[0].b64_json).shape == (64, 64, 3)


def test_same_seed_same_bytes(client):
    first, second = generate(client), generate(client)
    assert first.data[0].b64_json == second.data[0].b64_json
    other = generate(client, extra_body={"seed": 8})
    assert other.data[0].b64_json != first.data[0].b64_json


def test_aliases_mean_the_same(client):
    aliased = client.images.generate(prompt="a red square", size=SIZE,
                                     extra_body={"num_inference_steps": 3, "seed": 7, "sampler": "Euler",
                                                 "guidance_scale": 3})
    assert aliased.data[0].b64_json == generate(client).data[0].b64_json


def test_n_pictures_have_following_seeds(client):
    three = generate(client, n=3)
    assert len({d.b64_json for d in three.data}) == 3
    assert (pixels(three.data[2].b64_json) == pixels(generate(client, extra_body={"seed": 9}).data[0].b64_json)).all()


def test_url(client, daemon):
    answer = generate(client, response_format="url", n=2)
    inline = generate(client, n=2)
    for one, two in zip(answer.data, inline.data):
        assert one.b64_json is None and one.url.startswith(daemon.url.rstrip("/") + "/v1/jobs/")
        with urllib.request.urlopen(one.url) as page:
            assert page.headers["Content-Type"] == "image/png"
            assert (pixels(base64.b64encode(page.read())) == pixels(two.b64_json)).all()


def test_ignored_fields(client):
    answer = generate(client, quality="high", style="vivid", background="auto", user="u", moderation="low",
                      output_compression=50, output_format="png")
    assert answer.data[0].b64_json == generate(client).data[0].b64_json


def test_size_auto(client):
    assert "x" in generate(client, size="auto").size


def test_edit(client):
    answer = edit(client)
    assert pixels(answer.data[0].b64_json).shape == (64, 64, 3)
    assert answer.data[0].b64_json == edit(client, image=[png_bytes(picture())]).data[0].b64_json
    assert answer.data[0].b64_json != edit(client, extra_body={"strength": 0.4}).data[0].b64_json
    assert len(edit(client, n=2).data) == 2


def test_edit_with_mask(client):
    """Where the mask is opaque the picture stays nearer to the original than without a mask."""
    original = picture().astype(int)
    masked = pixels(edit(client, mask=png_bytes(picture(True), "mask.png")).data[0].b64_json).astype(int)
    free = pixels(edit(client).data[0].b64_json).astype(int)
    assert (masked != free).any()

    def distance(a):
        return np.abs(a[:, :24] - original[:, :24]).mean()

    assert distance(masked) < distance(free)


@pytest.mark.parametrize("partial", [0, 1, 3])
def test_generation_stream(client, partial):
    stream = generate(client, stream=True, partial_images=partial, extra_body={"steps": 8})
    events = list(stream)
    assert [e.type for e in events[:-1]] == ["image_generation.partial_image"] * (len(events) - 1)
    assert len(events) - 1 == partial
    assert [e.partial_image_index for e in events[:-1]] == list(range(partial))
    done = events[-1]
    assert done.type == "image_generation.completed"
    for event in events:
        assert (event.size, event.output_format, event.background, event.quality) == (SIZE, "png", "opaque", "auto")
        assert event.created_at > 1e9 and pixels(event.b64_json).shape == (64, 64, 3)
    assert done.b64_json == generate(client, extra_body={"steps": 8}).data[0].b64_json


def test_edit_stream(client):
    events = list(edit(client, stream=True, partial_images=2, extra_body={"steps": 8}))
    assert [e.type for e in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert events[-1].b64_json == edit(client, extra_body={"steps": 8}).data[0].b64_json


BAD = [
    ({"n": 11}, "n"), ({"n": 0}, "n"), ({"size": "100x100"}, "size"), ({"size": "big"}, "size"),
    ({"size": "80000x80000"}, "size"), ({"output_format": "jpeg"}, "output_format"),
    ({"output_format": "webp"}, "output_format"), ({"response_format": "file"}, "response_format"),
    ({"stream": True, "n": 2}, "stream"), ({"partial_images": 4, "stream": True}, "partial_images"),
    ({"extra_body": {"steps": 0}}, "steps"), ({"extra_body": {"steps": 100000}}, "steps"),
    ({"extra_body": {"steps": "3"}}, "steps"), ({"extra_body": {"num_inference_steps": 2.5}}, "num_inference_steps"),
    ({"extra_body": {"guidance_scale": -1}}, "guidance_scale"), ({"extra_body": {"cfg_scale": []}}, "cfg_scale"),
    ({"extra_body": {"sampler": "warp"}}, "sampler"), ({"extra_body": {"scheduler": "warp"}}, "scheduler"),
    ({"extra_body": {"seed": -1}}, "seed"), ({"extra_body": {"seed": 2**53}}, "seed"),
    ({"extra_body": {"negative_prompt": 3}}, "negative_prompt"), ({"prompt": "x" * 8193}, "prompt"),
]


@pytest.mark.parametrize("more,field", BAD)
def test_bad_values(client, more, field):
    with pytest.raises(openai.BadRequestError) as caught:
        generate(client, **more)
    error = caught.value
    assert set(error.body) == {"message", "type", "param", "code"}
    assert (error.type, error.param) == ("invalid_request_error", field) and error.code
    assert error.body["message"].startswith(field + ":")
    assert error.request_id.startswith("req_")
    assert error.response.headers["x-should-retry"] == "false"


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        generate(client, model="gpt-image-1")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"


def test_edit_errors(client):
    jpeg = io.BytesIO()
    Image.fromarray(picture()).save(jpeg, "JPEG")
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, image=("a.jpg", jpeg.getvalue(), "image/jpeg"))
    assert caught.value.param == "image" and "JPEG" in caught.value.body["message"]
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, mask=png_bytes(picture()[:32]))
    assert caught.value.param == "mask"
    assert "64 x 64" in caught.value.body["message"] and "64 x 32" in caught.value.body["message"]
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, image=[png_bytes(picture()), png_bytes(picture())])
    assert caught.value.param == "image[]"
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, extra_body={"strength": 1.5})
    assert caught.value.param == "strength"


def test_permanent_refusals_are_not_repeated(daemon):
    """One request each, although the client would repeat three times."""
    sent = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: sent.append(request)]})
    with openai.OpenAI(api_key="none", base_url=daemon.url.rstrip("/") + "/v1", max_retries=3, http_client=http) as c:
        for more in ({"n": 0}, {"model": "no"}):
            sent.clear()
            with pytest.raises(openai.APIStatusError):
                generate(c, **more)
            assert len(sent) == 1


@pytest.mark.parametrize("body,content_type", [
    (b"", "application/json"), (b"{", "application/json"), (b"[]", "application/json"),
    (b'{"prompt":"a","prompt":"b"}', "application/json"), (b'{"prompt":"a"}', "text/plain"),
    (b'{"prompt":"\xff"}', "application/json"), (b'{"a":' + b"[" * 20 + b"]" * 20 + b"}", "application/json"),
    (b'{"prompt":"a","x":[' + b"1," * 10000 + b"1]}", "application/json")])
def test_malformed_bodies(daemon, body, content_type):
    request = urllib.request.Request(daemon.url.rstrip("/") + "/v1/images/generations", body,
                                     {"Content-Type": content_type})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400
    assert caught.value.headers["Content-Type"].startswith("application/json")
    assert b'"invalid_request_error"' in caught.value.read()
