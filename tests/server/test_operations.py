"""Start, end, keys, TLS, systemd, and the addresses for those who run the daemon."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from reports import REPORTS
from server_client import in_thread

ROOT = Path(__file__).resolve().parents[2]

LONG = {"steps": 150, "width": 256, "height": 256}
LABELS = {
    "asdm_requests_total": {"route", "code"},
    "asdm_images_total": {"model", "mode"},
    "asdm_rejected_total": {"reason"},
    "asdm_cancelled_total": {"reason"},
    "asdm_worker_restarts_total": {"reason"},
    "asdm_queue_depth": set(),
    "asdm_active_rows": set(),
    "asdm_connections": set(),
    "asdm_model_ready": {"model"},
    "asdm_gpu_memory_used_bytes": set(),
    "asdm_device_memory_bytes": {"model", "kind"},
    "asdm_build_info": {"version"},
    "asdm_request_duration_seconds": {"route"},
    "asdm_queue_wait_seconds": set(),
    "asdm_stage_duration_seconds": {"stage"},
    "asdm_step_duration_seconds": {"model", "rows"},
    "asdm_batch_rows": set(),
}


def run(asdmd_path, *arguments, env=None, timeout=60):
    done = subprocess.run([asdmd_path, *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    assert not any(report in done.stderr for report in REPORTS), done.stderr
    return done


def write_keys(path, **lines):
    """NAME="KEY words ..." """
    text = "".join(f"{name} {hashlib.sha256(line.split()[0].encode()).hexdigest()} {' '.join(line.split()[1:])}\n"
                   for name, line in lines.items())
    path.write_text(text)
    return str(path)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the addresses


def test_health_ready_version(daemon):
    assert daemon.request("GET", "/healthz").json() == {"status": "ok"}
    assert daemon.request("GET", "/readyz").json() == {"ready": True, "reason": None}
    answer = daemon.request("GET", "/version")
    assert answer.status == 200 and answer.json()["name"] == "asdm"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", answer.json()["version"])
    assert answer.headers["Content-Type"] == "application/json"


def test_not_ready_before_the_canary(start_daemon):
    daemon = start_daemon(wait="listening")
    answer = daemon.request("GET", "/readyz")
    if answer.status == 503:  # it may have been quick
        assert answer.json()["ready"] is False and answer.json()["reason"]
        assert int(answer.headers["Retry-After"]) >= 1
    assert daemon.request("GET", "/healthz").status == 200
    daemon.wait_ready()
    ready = daemon.wait_for("its line in the log", lambda: daemon.find_line("ready"))
    assert daemon.find_line("listening")["time"] <= ready["time"]


def read_samples(text):
    """[(name, {label: value}, number)]"""
    samples = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, number = re.fullmatch(r'([a-z_]+)(?:\{(.*)\})? (\S+)', line).groups()
        samples.append((name, dict(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', labels or "")), float(number)))
    return samples


def test_metrics_of_a_busy_server(daemon):
    waits = [in_thread(daemon.job, seed=seed, steps=6, guidance_scale=1 + seed % 3) for seed in range(8)]
    assert daemon.job(steps="many").status in (400, 422)
    assert daemon.request("GET", "/nowhere").status == 404
    busy = daemon.request("GET", "/metrics")
    assert [wait().status for wait in waits] == [200] * 8
    answer = daemon.request("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = read_samples(answer.text)
    for name, labels in LABELS.items():
        assert f"# HELP {name} " in answer.text and f"# TYPE {name} " in answer.text
        for found, its, _ in samples:
            if found in (name, name + "_sum", name + "_count", name + "_bucket"):
                assert its.keys() - {"le"} == labels, found
    values = {(name, *sorted(labels.values())): number for name, labels, number in samples}
    assert values["asdm_images_total", "scenes", "t2i"] >= 8
    assert values["asdm_model_ready", "scenes"] == 1
    assert values["asdm_queue_wait_seconds_count",] >= 8
    assert values["asdm_batch_rows_count",] >= 6
    answered = [number for name, labels, number in samples if name == "asdm_requests_total" and labels["code"] == "200"]
    assert sum(answered) >= 8
    stages = {labels["stage"] for name, labels, _ in samples if name == "asdm_stage_duration_seconds_count"}
    assert {"text", "denoise", "decode", "png"} <= stages <= {"text", "encode", "denoise", "decode", "png"}
    assert any(name == "asdm_step_duration_seconds_count" and labels["model"] == "scenes" for name, labels, _ in samples)
    routes = {labels["route"] for name, labels, _ in samples if name == "asdm_requests_total"}
    assert "/nowhere" not in routes, "a label must not be the client's choice"
    if not shutil.which("promtool"):
        pytest.skip("promtool is missing")
    for text in busy.text, answer.text:
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_log_is_json_lines(daemon):
    daemon.request("GET", "/healthz?%7f%ff%22", headers={"User-Agent": 'a"b\\c'})
    for line in daemon.log().splitlines():
        parsed = json.loads(line)
        assert list(parsed)[:3] == ["time", "level", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", parsed["time"])


# --- end


def test_sigterm_answers_what_was_accepted(start_daemon):
    daemon = start_daemon(drain_timeout_ms=300000, worker={"threads": 1})
    waits = [in_thread(daemon.job, steps=25, width=256, height=256, seed=seed, headers={"Accept": "image/png"})
             for seed in range(3)]
    daemon.wait_for("all pictures in the batch", lambda: "asdm_active_rows 6\n" in daemon.request("GET", "/metrics").text)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("drain", lambda: daemon.find_line("draining"))
    ready, late = daemon.request("GET", "/readyz"), daemon.job()
    assert ready.status == 503 and ready.json() == {"ready": False, "reason": "draining"}
    assert late.status == 503 and int(late.headers["Retry-After"]) >= 1
    for wait in waits:
        answer = wait()
        assert answer.status == 200 and answer.body.startswith(b"\x89PNG")
    assert daemon.process.wait(60) == 0
    assert daemon.find_line("stopped")


def test_the_drain_has_a_limit(start_daemon):
    daemon = start_daemon(drain_timeout_ms=300, worker={"threads": 1})
    waits = [in_thread(daemon.job, seed=seed, **LONG) for seed in range(4)]
    daemon.wait_for("pictures in the batch", lambda: "asdm_active_rows 0\n" not in daemon.request("GET", "/metrics").text)
    before = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - before < 15
    for wait in waits:
        answer = wait()
        assert answer.status == 503 and int(answer.headers["Retry-After"]) >= 1


def test_a_second_signal_ends_at_once(start_daemon):
    daemon = start_daemon(worker={"threads": 1})
    workers = daemon.children()
    assert workers
    for seed in range(4):
        assert daemon.job(wait=False, seed=seed, **LONG).status == 202
    daemon.process.send_signal(signal.SIGINT)
    daemon.wait_for("drain", lambda: daemon.find_line("draining"))
    time.sleep(0.1)
    assert daemon.stop(signal.SIGTERM, 10) == -signal.SIGTERM
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on without its daemon"
        time.sleep(0.1)


# --- usage and configuration


def test_check_config(asdmd_path, models_dir, tmp_path):
    good = run(asdmd_path, "--check-config", "--config", ROOT / "config" / "asdmd.json")
    assert (good.returncode, good.stdout, good.stderr) == (0, "The configuration is good.\n", "")
    path = tmp_path / "bad.json"
    path.write_text('{"queue": {"pictures_max": 0}}')
    bad = run(asdmd_path, "--check-config", "--config", path)
    assert bad.returncode == 2 and not bad.stdout
    assert bad.stderr == f'asdmd: {path}: queue.pictures_max: must be an integer from 1 to 100000, is "0"\n'
    keys = tmp_path / "keys"
    keys.write_text("ann 12\n")
    bad = run(asdmd_path, "--check-config", "--model", f"m={models_dir}", "--set", f"api_keys={keys}")
    assert bad.returncode == 2 and "line 1: after the name there must be the key's SHA-256" in bad.stderr


def test_the_table_in_the_readme_is_the_programs(asdmd_path):
    assert run(asdmd_path, "--help-config").stdout in (ROOT / "config" / "README.md").read_text()


def test_help_and_version(asdmd_path):
    for option, start in (("--help", "asdmd serves"), ("--version", "asdmd "), ("--help-config", "| key |")):
        done = run(asdmd_path, option)
        assert done.returncode == 0 and done.stdout.startswith(start) and not done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--nonsense"], "nonsense"),
    (["word"], "every word must be an option"),
    (["--config"], "config"),
    (["--config", "/nonexistent.json"], "/nonexistent.json"),
    ([], "models: at least one is needed"),
    (["--model", "x"], "must be KEY=VALUE"),
    (["--model", "x y=z"], "--model NAME=DIR: must be a text of 1 to 63 letters"),
    (["--model", "m=/m", "--listen", "8080"], "listen: must be ADDRESS:PORT"),
    (["--model", "m=/m", "--device", "tpu"], "worker.device: must be auto, cpu, ref, cuda or cuda:N"),
    (["--model", "m=/m", "--dtype", "int4"], "worker.dtype: must be auto, fp32, tf32, bf16 or fp16"),
    (["--model", "m=/m", "--threads", "-1"], "worker.threads: must be an integer from 0 to 1024"),
    (["--model", "m=/m", "--set", "nope=1"], "nope: unknown key; known: listen"),
    (["--model", "m=/m", "--listen", "0.0.0.0:0"], "needs api_keys"),
    (["--model", "m=/m", "--listen", "[::]:0"], "needs api_keys"),
    (["--model", "m=/m", "--set", "tls.key=x"], "tls.certificate: is needed with tls.key"),
])
def test_wrong_usage_exits_2(asdmd_path, arguments, message):
    done = run(asdmd_path, *arguments)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr


def test_a_taken_port_is_told_at_once(asdmd_path, models_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = time.monotonic()
        done = run(asdmd_path, "--model", f"m={models_dir}", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1 and time.monotonic() - before < 10
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["level"] == "error" and str(port) in line["message"]


def test_a_model_that_is_not_there(asdmd_path, tmp_path):
    done = run(asdmd_path, "--model", f"m={tmp_path}/none", "--listen", "127.0.0.1:0")
    assert done.returncode in (1, 2) and "none" in done.stderr


# --- keys


def test_keys(start_daemon, tmp_path):
    keys = write_keys(tmp_path / "keys", ann="alpha", bob="beta admin")
    daemon = start_daemon(api_keys=keys)
    for path in "/healthz", "/readyz", "/version":
        assert daemon.request("GET", path).status == 200
    for headers in {}, bearer("wrong"), bearer(""), bearer(hashlib.sha256(b"alpha").hexdigest()), basic("ann", "wrong"):
        for path in "/v1/models", "/metrics", "/v1/jobs", "/sdapi/v1/samplers":
            answer = daemon.request("GET", path, headers=headers)
            assert answer.status == 401, (path, headers)
            assert answer.headers["WWW-Authenticate"]
            assert str(tmp_path) not in answer.text
    for headers in bearer("alpha"), bearer("beta"), basic("ann", "alpha"), basic("anybody", "beta"):
        assert daemon.request("GET", "/v1/models", headers=headers).status == 200
    assert daemon.request("GET", "/metrics", headers=bearer("alpha")).status == 200
    assert daemon.job(headers=bearer("alpha")).status == 200


def test_sighup_reads_the_keys_anew(start_daemon, tmp_path):
    path = tmp_path / "keys"
    daemon = start_daemon(api_keys=write_keys(path, ann="alpha"))

    def status(key):
        return daemon.request("GET", "/v1/models", headers=bearer(key)).status

    assert (status("alpha"), status("beta")) == (200, 401)
    write_keys(path, ann="alpha", bob="beta")
    assert status("beta") == 401
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("keys", lambda: daemon.find_line("keys read anew"))
    assert (status("alpha"), status("beta")) == (200, 200)
    path.write_text("nonsense\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("refusal", lambda: any("keys stay as they were" in line["message"] for line in daemon.log_lines()))
    assert (status("alpha"), status("beta")) == (200, 200)


def test_keys_from_the_environment(start_daemon, tmp_path):
    daemon = start_daemon(env={"ASDM_API_KEYS_FILE": write_keys(tmp_path / "keys", ann="alpha")})
    assert daemon.request("GET", "/v1/models").status == 401
    assert daemon.request("GET", "/v1/models", headers=bearer("alpha")).status == 200


def test_limits_of_a_key(start_daemon, tmp_path):
    daemon = start_daemon(api_keys=write_keys(tmp_path / "keys", slow="one rate=3", small="two pixels=8192",
                                              short="three queue=1", free="four"), worker={"threads": 1, "rows_max": 2})
    codes = [daemon.job(headers=bearer("one")).status for _ in range(5)]
    assert codes[:1] == [200] and codes[-1] == 429 and set(codes) == {200, 429}
    refused = daemon.job(headers=bearer("one"))
    assert refused.status == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60
    assert daemon.job(headers=bearer("four")).status == 200, "the limit is one key's"

    codes = [daemon.job(headers=bearer("two")).status for _ in range(4)]  # 4096 pixels each
    assert codes[0] == 200 and codes[-1] == 429

    codes = [daemon.job(wait=False, headers=bearer("three"), seed=seed, **LONG).status for seed in range(6)]
    assert codes[0] == 202 and codes[-1] == 429
    for job in daemon.request("GET", "/v1/jobs", headers=bearer("three")).json()["jobs"]:
        assert daemon.request("DELETE", f"/v1/jobs/{job['id']}", headers=bearer("three")).status == 200


def test_other_addresses_with_keys(start_daemon, tmp_path):
    daemon = start_daemon(listen="0.0.0.0:0", api_keys=write_keys(tmp_path / "keys", ann="alpha"), wait="listening")
    assert any(line["level"] == "warning" and "plain HTTP" in line["message"] for line in daemon.log_lines())
    daemon.url = f"http://127.0.0.1:{daemon.port}"
    daemon.wait_ready()


# --- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", folder / "key.pem", "-out", folder / "certificate.pem", "-days", "2", "-subj", "/CN=asdm",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60)
    return {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}


def test_tls(start_daemon, certificate):
    context = ssl.create_default_context(cafile=certificate["certificate"])
    daemon = start_daemon(tls=certificate, context=context)
    assert daemon.url.startswith("https://127.0.0.1:")
    answer = daemon.job(headers={"Accept": "image/png"})
    assert answer.status == 200 and answer.body.startswith(b"\x89PNG")
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 2")
    assert daemon.request("GET", "/healthz").status == 200


def test_tls_with_a_bad_certificate(asdmd_path, models_dir, certificate):
    done = run(asdmd_path, "--model", f"m={models_dir}", "--listen", "127.0.0.1:0", "--set",
               f"tls.certificate={certificate['key']}", "--set", f"tls.key={certificate['key']}")
    assert done.returncode == 1 and json.loads(done.stderr.splitlines()[-1])["level"] == "error"


# --- systemd


def test_socket_activation(start_daemon):
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("systemd-socket-activate is missing")
    port = free_port()
    daemon = start_daemon(prefix=["systemd-socket-activate", f"--listen=127.0.0.1:{port}"], listen="127.0.0.1:1", wait=None)
    daemon.url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return daemon.request("GET", "/readyz", timeout=5).status == 200
        except OSError:
            return False

    daemon.wait_for("readiness", answers)
    assert daemon.find_line("listening")["address"] == daemon.url
    assert daemon.job().status == 200


def test_a_socket_that_others_reach_needs_keys(start_daemon):
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("systemd-socket-activate is missing")
    port = free_port()
    daemon = start_daemon(prefix=["systemd-socket-activate", f"--listen=0.0.0.0:{port}"], wait=None)
    deadline = time.monotonic() + 30
    while daemon.process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            pass
        time.sleep(0.1)
    assert daemon.process.wait(10) == 1
    assert "needs api_keys" in daemon.log_lines()[-1]["message"]


def test_notify(start_daemon, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        daemon = start_daemon(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}, wait="listening")
        got = []

        def wait_for(text, seconds=120):
            deadline = time.monotonic() + seconds
            while not any(text in message for message in got):
                assert time.monotonic() < deadline, got
                got.append(listener.recv(4096).decode())

        wait_for("READY=1")
        assert daemon.request("GET", "/readyz").status == 200, "READY comes when the models are ready"
        wait_for("STATUS=0 pictures in the batch, 0 waiting")
        got.clear()
        before = time.monotonic()
        while sum("WATCHDOG=1" in message for message in got) < 5:
            got.append(listener.recv(4096).decode())
        assert time.monotonic() - before < 5 * 0.4
        daemon.process.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        assert daemon.process.wait(60) == 0
