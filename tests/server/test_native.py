"""Native jobs over plain HTTP: 202, poll, events, cancel, waiting, pictures, and every field's bad values."""
import base64
import http.client
import io
import json
import socket
import time
import uuid
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

QUICK = {"prompt": "a red square", "width": 64, "height": 64, "steps": 3, "seed": 7}
LONG = {"prompt": "a long one", "steps": 150, "count": 10}
JOB_KEYS = {"id", "status", "kind", "model", "created", "progress", "queue_position", "request", "images", "timing",
            "error"}


class Api:
    def __init__(self, daemon):
        self.netloc = urlsplit(daemon.url).netloc

    def connect(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.netloc, timeout=120)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        return connection, connection.getresponse()

    def call(self, method, path, body=None, headers=None):
        connection, answer = self.connect(method, path, body, headers)
        data = answer.read()
        connection.close()
        if answer.headers.get("Content-Type", "").startswith("application/json"):
            data = json.loads(data)
        return answer, data

    def submit(self, **fields):
        answer, job = self.call("POST", "/v1/jobs", fields)
        assert answer.status == 202, job
        assert answer.headers["Location"] == "/v1/jobs/" + job["id"]
        return job

    def wait(self, job_id, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer, job = self.call("GET", "/v1/jobs/" + job_id)
            assert answer.status == 200
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            time.sleep(0.02)
        raise AssertionError("the job did not end")

    def events(self, job_id):
        connection, answer = self.connect("GET", f"/v1/jobs/{job_id}/events")
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
        events = []
        for block in answer.read().decode().split("\n\n"):
            lines = [line for line in block.split("\n") if line and not line.startswith(":")]
            if lines:
                fields = dict(line.split(": ", 1) for line in lines)
                events.append((fields["event"], json.loads(fields["data"])))
        connection.close()
        return events


@pytest.fixture
def api(daemon):
    return Api(daemon)


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def picture(height=64, width=64):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_submit_poll_fetch(api):
    job = api.submit(**QUICK, count=2)
    assert set(job) == JOB_KEYS and job["status"] in ("queued", "running", "succeeded") and job["error"] is None
    assert job["request"]["seed"] == 7 and job["request"]["steps"] == 3 and "strength" not in job["request"]
    done = api.wait(job["id"])
    assert done["status"] == "succeeded" and done["kind"] == "t2i"
    assert done["progress"]["step"] == done["progress"]["steps"] > 0
    assert done["progress"]["pictures_done"] == done["progress"]["pictures"] == 2
    assert [(i["index"], i["seed"]) for i in done["images"]] == [(0, 7), (1, 8)]
    assert done["timing"]["total_seconds"] >= done["timing"]["inference_seconds"] > 0
    for image in done["images"]:
        answer, data = api.call("GET", image["url"])
        assert answer.status == 200 and answer.headers["Content-Type"] == "image/png"
        assert pixels(data).shape == (64, 64, 3)
    assert api.call("GET", f"/v1/jobs/{job['id']}/images/0.png")[0].status == 200  # the caller's own
    for name in ("2.png", "00.png", "0", "-1.png", "0.jpg", "99999999999.png"):
        answer, data = api.call("GET", f"/v1/jobs/{job['id']}/images/{name}")
        assert answer.status == 404 and data["error"]["code"] == "not_found"
    _, listed = api.call("GET", "/v1/jobs")
    assert job["id"] in [j["id"] for j in listed["jobs"]]


def test_unknown_job(api):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/images/0.png")):
        answer, data = api.call(method, "/v1/jobs/job_nothing" + path)
        assert answer.status == 404
        assert set(data["error"]) == {"code", "message", "field", "request_id"}
        assert data["error"]["request_id"] == answer.headers["x-request-id"]


def test_events(api):
    job = api.submit(**{**QUICK, "steps": 12}, count=2, previews=2)
    events = api.events(job["id"])
    names = [name for name, _ in events]
    assert names[0] == "progress" and names[-1] == "done" and names.count("done") == 1
    steps = [data["step"] for name, data in events if name == "progress"]
    assert steps == sorted(steps)
    assert sorted(d["index"] for n, d in events if n == "picture") == [0, 1]
    for name, data in events:
        if name == "preview":
            assert data["picture"] in (0, 1) and pixels(base64.b64decode(data["png"])).shape == (64, 64, 3)
    assert set(events[-1][1]) == JOB_KEYS and events[-1][1]["status"] == "succeeded"
    again = api.events(job["id"])  # a finished job's
    assert [n for n, _ in again] == ["progress", "picture", "picture", "done"]


def test_previews_arrive(api):
    job = api.submit(**{**QUICK, "steps": 40, "width": 128, "height": 128}, previews=3)
    assert "preview" in [name for name, _ in api.events(job["id"])]


def test_cancel(api):
    job = api.submit(**LONG)
    answer, data = api.call("DELETE", "/v1/jobs/" + job["id"])
    assert answer.status == 200 and data["id"] == job["id"]
    ended = api.wait(job["id"], 30)
    assert ended["status"] == "cancelled" and ended["error"]["code"] == "cancelled"
    assert api.call("DELETE", "/v1/jobs/" + job["id"])[0].status == 200  # again
    assert api.events(job["id"])[-1][1]["status"] == "cancelled"


def test_wait(api):
    answer, job = api.call("POST", "/v1/jobs?wait=1", QUICK)
    assert answer.status == 200 and job["status"] == "succeeded"
    for name in ("x-queue-time", "x-inference-time", "x-total-time"):
        assert float(answer.headers[name]) >= 0
    answer, data = api.call("POST", "/v1/jobs?wait=1", QUICK, {"Accept": "image/png"})
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/png"
    _, fetched = api.call("GET", job["images"][0]["url"])
    assert (pixels(data) == pixels(fetched)).all()
    answer, data = api.call("POST", "/v1/jobs?wait=2", QUICK)
    assert answer.status == 422 and data["error"]["field"] == "wait"


def leave(api, body):
    """Submits with wait=1, finds the job, and goes away."""
    before = {j["id"] for j in api.call("GET", "/v1/jobs")[1]["jobs"]}
    host, port = api.netloc.split(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /v1/jobs?wait=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(data) + data)
        for _ in range(500):
            found = [j["id"] for j in api.call("GET", "/v1/jobs")[1]["jobs"] if j["id"] not in before]
            if found:
                return found[0]
            time.sleep(0.01)
    raise AssertionError("the job did not appear")


def test_a_waiting_client_that_leaves_takes_its_job_along(api):
    assert api.wait(leave(api, LONG), 30)["status"] == "cancelled"


def test_a_client_with_an_idempotency_key_may_come_back(api):
    job = leave(api, {**QUICK, "steps": 60, "idempotency_key": uuid.uuid4().hex})
    assert api.wait(job)["status"] == "succeeded"


def test_idempotency(api):
    key = uuid.uuid4().hex
    first = api.submit(**QUICK, idempotency_key=key)
    second = api.submit(**QUICK, idempotency_key=key)
    answer, third = api.call("POST", "/v1/jobs", QUICK, {"Idempotency-Key": key})
    assert first["id"] == second["id"] == third["id"]
    answer, body = api.call("POST", "/v1/jobs", {**QUICK, "seed": 8}, {"Idempotency-Key": key})
    assert answer.status == 422 and body["error"]["code"] == "idempotency_mismatch"
    assert api.submit(**QUICK, idempotency_key=uuid.uuid4().hex)["id"] != first["id"]


def test_i2i_and_mask(api):
    image = picture()
    base = {**QUICK, "init_image": png(image), "strength": 0.9}
    answer, job = api.call("POST", "/v1/jobs?wait=1", base)
    assert answer.status == 200 and job["kind"] == "i2i" and job["request"]["strength"] == 0.9
    free = pixels(api.call("GET", job["images"][0]["url"])[1]).astype(int)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 32:] = 255
    _, data = api.call("POST", "/v1/jobs?wait=1", {**base, "kind": "i2i", "mask": png(mask)}, {"Accept": "image/png"})
    masked = pixels(data).astype(int)
    kept = np.s_[:, :24]
    assert np.abs(masked - image)[kept].mean() < np.abs(free - image)[kept].mean()
    url = "data:image/png;base64," + base["init_image"]
    _, data = api.call("POST", "/v1/jobs?wait=1", {**base, "init_image": url}, {"Accept": "image/png"})
    assert (pixels(data) == free).all()


def test_overview(api):
    answer, data = api.call("GET", "/v1/overview")
    assert answer.status == 200
    assert set(data) == {"models", "samplers", "schedules", "queued", "active_pictures", "active_rows",
                         "step_seconds_mean"}
    assert set(data["models"][0]) == {"name", "ready", "default_width", "default_height", "default_sampler"}
    assert {"name": "euler_a", "label": "Euler a"} in data["samplers"]
    assert {"name": "karras", "label": "Karras"} in data["schedules"]


BAD = {
    "kind": ["t3i", 1, "i2i"],
    "model": ["nope", 3, {}],
    "prompt": [None, 7, [], "x" * 8193],
    "negative_prompt": [7, "x" * 8193],
    "prompt_syntax": ["comfy", True],
    "width": [0, -8, 63, 64.5, "64", 1e300, 10**8],
    "height": [0, -8, 63, 64.5, "64", 1e300, 10**8],
    "steps": [0, -1, 2.5, "3", True, 100000],
    "sampler": ["warp", "", 3],
    "schedule": ["warp", 3],
    "guidance_scale": [-0.1, 101, "7", [], 1e300],
    "seed": [-1, 1.5, 2**53, 2**64, "7"],
    "rng": ["mt19937", 0],
    "count": [0, 1000, 1.5, "1"],
    "init_image": ["", "%%%", "aGVsbG8=", "/9j/4AAQ", "http://127.0.0.1/a.png", 5, []],
    "strength": [0.5],
    "mask": ["aGVsbG8="],
    "previews": [-1, 11, 1.5],
    "priority": [0, 11, "high"],
    "deadline_ms": [0, -1, 1.5, 10**9],
    "idempotency_key": ["", 3, "k" * 300],
    "unheard_of": [1],
    "cfg_scale": [7],
}


@pytest.mark.parametrize("field,value", [(f, v) for f, values in BAD.items() for v in values],
                         ids=lambda v: str(v)[:16])
def test_bad_values(api, field, value):
    answer, data = api.call("POST", "/v1/jobs", {**QUICK, field: value})
    named = "init_image" if (field, value) == ("kind", "i2i") else field
    assert answer.status == 422, data
    assert data["error"]["field"] == named and data["error"]["code"]
    assert data["error"]["message"].startswith(named + ":")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("field,value", [("strength", v) for v in (-0.1, 1.1, "1", None)] +
                         [("mask", v) for v in ("%%%", "aGVsbG8=", 5)])
def test_bad_i2i_values(api, field, value):
    body = {**QUICK, "init_image": png(picture()), field: value}
    answer, data = api.call("POST", "/v1/jobs?wait=1", body)
    if value is None:  # as if it were not there
        assert answer.status == 200
        return
    assert answer.status == 422 and data["error"]["field"] == field


def test_a_mask_of_another_size_is_refused(api):
    answer, data = api.call("POST", "/v1/jobs", {**QUICK, "init_image": png(picture()), "mask": png(picture(32, 16))})
    assert answer.status == 422 and data["error"]["field"] == "mask"
    assert "64 x 64" in data["error"]["message"] and "16 x 32" in data["error"]["message"]


@pytest.mark.parametrize("body,content_type", [
    (b"", "application/json"), (b"{", "application/json"), (b"[]", "application/json"), (b"null", "application/json"),
    (b'{"prompt":"a"}{}', "application/json"), (b'{"prompt":"a","prompt":"b"}', "application/json"),
    (b'{"prompt":"a"}', "text/plain"), (b'{"prompt":"\\u0000"}', "application/json")])
def test_malformed_bodies(api, body, content_type):
    answer, data = api.call("POST", "/v1/jobs", body, {"Content-Type": content_type})
    assert answer.status == 400 and data["error"]["code"] == "malformed"
