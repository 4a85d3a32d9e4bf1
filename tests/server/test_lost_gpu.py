"""A GPU that is really lost under load: an illegal address in the worker's own context (cuda/lose_gpu.cu, preloaded),
after which nothing works in that process any more. The worker is replaced, and every picture comes out as if nothing had
been."""
import random
import time

import pytest

from daemon_load import draw, kinds
from test_same_bytes import check, init_image, under_load

REQUESTS = 120


@pytest.fixture
def losing(build_dir, first_device, start_daemon, tmp_path):
    if not first_device.startswith("cuda"):
        pytest.skip("needs a GPU")
    library, trigger = build_dir / "tests" / "lose_gpu.so", tmp_path / "lose"
    assert library.exists(), f"{library} is missing: tests/run-gpu builds it"
    return start_daemon(env={"LD_PRELOAD": str(library), "ASDM_TEST_LOSE_GPU": str(trigger)}), trigger


def test_a_lost_gpu_loses_nothing(losing):
    daemon, trigger = losing
    bodies = kinds(REQUESTS, 17, init_image())
    alone = [draw(daemon.port, body)[1] for body in bodies]
    order = list(range(REQUESTS))
    random.Random(4).shuffle(order)
    workers = set(daemon.children())

    def lose():
        time.sleep(0.3)
        trigger.touch()

    check(under_load(daemon.port, bodies, order, lose), alone, REQUESTS)
    assert not trigger.exists(), "no graph was launched after the trigger"
    assert not workers & set(daemon.children()), "the worker was not replaced"
    assert "illegal memory access" in daemon.log()
    restarts = [line for line in daemon.request("GET", "/metrics").text.splitlines()
                if line.startswith("asdm_worker_restarts_total{")]
    assert sum(float(line.split()[-1]) for line in restarts) == 1, restarts
