"""A picture's bytes depend on its request alone: not on what it was batched with, when it joined, or what died beside
it."""
import base64
import io
import os
import random
import signal
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import tensorfile
from daemon_load import Load, draw, kinds
from server_client import MODEL

REQUESTS = 200


def init_image():
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.fixture(scope="module")
def bodies():
    return kinds(REQUESTS, 11, init_image())


@pytest.fixture(scope="module")
def alone(daemon, bodies):
    """Each request's picture, drawn with nothing beside it."""
    pictures = []
    for body in bodies:
        status, data, _, _ = draw(daemon.port, body)
        assert status == 200, data
        pictures.append(data)
    return pictures


def under_load(port, bodies, order, during=None):
    """All requests of `order`, from 24 clients; `during` is called once on the way. Returns the results."""
    waiting = iter(order)

    def choose():
        key = next(waiting, None)
        if key is None:
            raise StopIteration
        return key, bodies[key]

    load = Load(port, 24, choose).start()
    if during:
        during()
    for thread in load.threads:
        thread.join(300)
    return load.results


def check(results, alone, count):
    assert len(results) == count
    bad = Counter(status for _, status, *_ in results if status != 200)
    assert not bad, [(status, data[:200]) for _, status, data, *_ in results if status != 200][:3]
    wrong = [key for key, _, data, *_ in results if data != alone[key]]
    assert not wrong, f"{len(wrong)} pictures differ: {wrong[:10]}"


def test_under_load(daemon, bodies, alone):
    order = list(range(REQUESTS))
    random.Random(1).shuffle(order)
    check(under_load(daemon.port, bodies, order), alone, REQUESTS)
    text = daemon.request("GET", "/metrics").text
    shared = [line for line in text.splitlines() if line.startswith("asdm_batch_rows_bucket") and 'le="4"' in line]
    assert shared, "no batches were measured"
    total = next(line for line in text.splitlines() if line.startswith("asdm_batch_rows_count"))
    assert float(shared[0].split()[-1]) < float(total.split()[-1]), "nothing was ever batched"


@pytest.mark.parametrize("routing", ["full", "timestep"])
def test_a_light_model_under_load(start_daemon, asdm, models_dir, bodies, tmp_path, routing):
    """Kernels are mixed for each row or each timestep; attention is in windows. Routers have numbers."""
    light, count = tmp_path / "light", 60
    done = asdm("prune", models_dir, light, "--remove", "pair32,pair16,pair4,mid", "--gri", "32,16", "--gri-window", "4",
                "--gri-pool", "2", "--condconv", routing)
    assert done.returncode == 0, done.stderr
    weights, random_of = light / "unet/diffusion_pytorch_model.safetensors", np.random.default_rng(5)
    tensors = {name: np.array(value) for name, value in tensorfile.read(weights).items()}
    for name, value in tensors.items():
        if name.endswith(".router.weight"):
            tensors[name] = (0.1 * random_of.standard_normal(value.shape)).astype(np.float32)
    tensorfile.write(weights, tensors)
    daemon = start_daemon(models=[{"name": MODEL, "path": str(light)}])
    some = bodies[:count]
    pictures = [draw(daemon.port, body)[1] for body in some]
    order = list(range(count))
    random.Random(3).shuffle(order)
    check(under_load(daemon.port, some, order), pictures, count)


def test_with_cancelled_neighbours(daemon, bodies, alone):
    """Every third request is a job that is cancelled on its way."""
    ids = []

    def cancel_some():
        for i in range(20):
            answer = daemon.job(wait=False, steps=100, seed=i)
            assert answer.status == 202, answer.text
            ids.append(answer.json()["id"])
            time.sleep(0.05)
            daemon.request("DELETE", f"/v1/jobs/{ids[-1]}")

    check(under_load(daemon.port, bodies, list(range(60)), cancel_some), alone, 60)
    for job in ids:
        assert daemon.request("GET", f"/v1/jobs/{job}").json()["status"] == "cancelled"


def test_with_a_killed_worker(daemon, bodies, alone):
    def kill():
        time.sleep(0.7)
        for pid in daemon.children():
            os.kill(pid, signal.SIGKILL)

    order = list(range(REQUESTS))
    random.Random(2).shuffle(order)
    check(under_load(daemon.port, bodies, order, kill), alone, REQUESTS)


def test_a_poison_request_is_given_up(start_daemon):
    """A picture whose worker dies whenever it is drawn is tried three times; a neighbour gets its picture."""
    daemon = start_daemon()
    want = draw(daemon.port, {"prompt": "two trees", "width": 64, "height": 64, "steps": 4, "seed": 5})[1]
    poison = daemon.job(wait=False, steps=150, width=256, height=256).json()["id"]
    deaths = 0
    for _ in range(600):
        job = daemon.request("GET", f"/v1/jobs/{poison}").json()
        if job["status"] in ("failed", "succeeded"):
            break
        if job["status"] == "running" and job["progress"]["step"] > 0:
            for pid in daemon.children():
                os.kill(pid, signal.SIGKILL)
            deaths += 1
            time.sleep(0.3)
        time.sleep(0.02)
    assert job["status"] == "failed" and job["error"]["code"] == "worker_failed", job
    assert poison in job["error"]["message"]
    assert deaths == 3
    status, data, _, _ = draw(daemon.port, {"prompt": "two trees", "width": 64, "height": 64, "steps": 4, "seed": 5})
    assert status == 200 and data == want


def test_a_hanging_worker_is_replaced(start_daemon):
    daemon = start_daemon(worker={"step_timeout_ms": 1000})
    job = daemon.job(wait=False, steps=150, width=256, height=256).json()["id"]
    daemon.wait_for("the first step",
                    lambda: daemon.request("GET", f"/v1/jobs/{job}").json()["progress"]["step"] > 0, 30)
    (worker,) = daemon.children()
    os.kill(worker, signal.SIGSTOP)
    daemon.wait_for("another worker", lambda: worker not in daemon.children() and daemon.children(), 30)
    assert daemon.request("GET", f"/v1/jobs/{job}").json()["status"] in ("queued", "running")
    daemon.request("DELETE", f"/v1/jobs/{job}")
    assert 'asdm_worker_restarts_total{reason="hung"} 1' in daemon.request("GET", "/metrics").text
    daemon.wait_ready()
    assert daemon.job().status == 200
