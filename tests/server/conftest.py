"""A running asdmd for the tests of the server."""

import json

import pytest

from server_client import Daemon, make_config


@pytest.fixture(scope="session")
def asdmd_path(build_dir):
    path = build_dir / "asdmd"
    if not path.exists():
        pytest.fail(f"{path} is missing: build first", pytrace=False)
    return path


@pytest.fixture(scope="session")
def first_device(request):
    return request.config.getoption("--devices").split(",")[0]


@pytest.fixture(scope="session")
def daemon(asdmd_path, models_dir, tmp_path_factory, first_device):
    """The asdmd that most tests share, with the demo model."""
    folder = tmp_path_factory.mktemp("daemon")
    config = folder / "asdmd.json"
    config.write_text(json.dumps(make_config(models_dir, first_device)))
    daemon = Daemon([asdmd_path, "--config", config], folder / "log")
    try:
        yield daemon.wait_listening().wait_ready()
        daemon.end()
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.fixture
def start_daemon(asdmd_path, models_dir, tmp_path, first_device):
    """start_daemon(*arguments, env={}, prefix=[], headers={}, context=None,
    wait="ready"|"listening"|None, **config) -> Daemon of its own, with keys
    of the configuration as in config/README.md: start_daemon(queue={"pictures_max": 2}). What a test has not stopped
    itself is stopped in order after it."""
    started = []

    def start(*arguments, env=None, prefix=(), headers=None, context=None, wait="ready", options=None, **config):
        number = len(started)
        path = tmp_path / f"asdmd-{number}.json"
        path.write_text(json.dumps(make_config(models_dir, first_device, **config)))
        daemon = Daemon([*prefix, asdmd_path, "--config", path, *arguments], tmp_path / f"log-{number}", env,
                        **(options or {}))
        daemon.headers, daemon.context = headers or {}, context
        started.append(daemon)
        if wait:
            daemon.wait_listening()
        if wait == "ready":
            daemon.wait_ready()
        return daemon

    try:
        yield start
        for daemon in started:
            if daemon.process.poll() is None:
                daemon.end()
            daemon.check_reports()
    finally:
        for daemon in started:
            daemon.process.kill()
            daemon.process.wait()
