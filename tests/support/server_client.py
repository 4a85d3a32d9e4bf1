"""asdmd as a process, and requests to it: what the fixtures in tests/server/conftest.py are made of."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reports import REPORTS

START_SECONDS, STOP_SECONDS = 180, 60  # a sanitized build is slow
MODEL = "scenes"


class Answer:
    """Of one request."""

    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.body)


class Daemon:
    """One asdmd process. Its stderr, the log, is in a file."""

    def __init__(self, command, log_path, env=None, **options):
        self.command, self.log_path = [str(part) for part in command], Path(log_path)
        self.headers, self.context, self.url, self.port = {}, None, None, None
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(env or {})}, **options)
        self.pid = self.process.pid

    def log(self):
        return self.log_path.read_text("utf-8", "replace")

    def log_lines(self):
        """The JSON lines of the daemon, as far as they are written."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]

    def find_line(self, message):
        return next((line for line in self.log_lines() if line["message"] == message), None)

    def wait_for(self, what, condition, seconds=START_SECONDS):
        """Waits until condition() is true and returns its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            assert self.process.poll() is None, f"asdmd ended ({self.process.returncode}) before {what}:\n{self.tail()}"
            time.sleep(0.02)
        pytest.fail(f"no {what} in {seconds} s:\n{self.tail()}")

    def wait_listening(self):
        line = self.wait_for("address", lambda: self.find_line("listening"))
        self.url = line["address"]
        self.port = urlsplit(self.url).port
        return self

    def wait_ready(self):
        self.wait_for("readiness", lambda: self.request("GET", "/readyz").status == 200)
        return self

    def tail(self):
        return self.log()[-4000:]

    def connect(self, timeout=120):
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout,
                                               context=self.context or ssl.create_default_context())
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        """One request on a connection of its own. `body`: bytes, or what becomes JSON."""
        sent = {**self.headers, **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def job(self, wait=True, headers=None, **fields):
        """POST /v1/jobs with a small picture; `fields` over it."""
        body = {"kind": "t2i", "prompt": "a red house", "width": 64, "height": 64, "steps": 2, "seed": 1, **fields}
        return self.request("POST", "/v1/jobs?wait=1" if wait else "/v1/jobs", body, headers)

    def children(self):
        """Process ids of its workers."""
        found = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            try:
                found += [int(pid) for pid in path.read_text().split()]
            except OSError:  # the thread has ended
                pass
        return found

    def stop(self, number=signal.SIGTERM, seconds=STOP_SECONDS):
        """Sends the signal and waits for the end; returns the exit code, negative for a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"asdmd did not end within {seconds} s of signal {number}:\n{self.tail()}")

    def check_reports(self):
        text = self.log()
        for report in REPORTS:
            assert report not in text, text[-6000:]

    def end(self):
        """An orderly end: exit code 0, no worker left behind, no sanitizer's report."""
        workers = self.children()
        code = self.stop()
        self.check_reports()
        assert code == 0, f"exit code {code}:\n{self.tail()}"
        for pid in workers:
            assert not Path(f"/proc/{pid}").exists(), f"worker {pid} is left behind"


def in_thread(function, *arguments, **keywords):
    """Calls function in a thread; the returned function waits and gives its result or raises what it raised."""
    result = {}

    def run():
        try:
            result["value"] = function(*arguments, **keywords)
        except BaseException as error:  # noqa: BLE001: handed to who waits
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait(seconds=STOP_SECONDS):
        thread.join(seconds)
        assert not thread.is_alive(), f"{function} still runs"
        if "error" in result:
            raise result["error"]
        return result["value"]

    return wait


def make_config(models_dir, device="cpu", **config):
    """The tests' own defaults, `config` over them; groups are merged."""
    whole = {"listen": "127.0.0.1:0", "models": [{"name": MODEL, "path": str(models_dir)}],
             "worker": {"threads": 2, "device": device}}
    for key, value in config.items():
        whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return whole
