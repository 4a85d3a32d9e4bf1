"""A daemon under load: clients in closed loops, kinds of requests with known pictures, and what came of them."""
import http.client
import json
import random
import threading
import time
from pathlib import Path

SAMPLERS = ["ddim", "pndm", "euler", "euler_a", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc"]
PROMPTS = ["a red house in the snow", "a blue boat on the sea at night", "two trees", "a small tent at dawn",
           "a (purple:1.3) rocket [in the rain]", "tree " * 90]


def kinds(count, seed, init_image=None):
    """Requests that differ in everything a batch may mix; small, so that many can be drawn."""
    random_of = random.Random(seed)
    made = []
    for i in range(count):
        body = {"prompt": random_of.choice(PROMPTS), "prompt_syntax": random_of.choice(["plain", "a1111"]),
                "negative_prompt": random_of.choice(["", "in the rain"]), "steps": random_of.randint(2, 8),
                "sampler": random_of.choice(SAMPLERS), "guidance_scale": random_of.choice([1, 3, 5, 7.5]), "seed": i,
                "width": random_of.choice([64, 64, 96]), "height": random_of.choice([64, 64, 128]),
                "rng": random_of.choice(["philox", "torch"])}
        if init_image and random_of.random() < 0.3:
            body.update(init_image=init_image, strength=random_of.choice([0.4, 0.8]))
        made.append(body)
    return made


def draw(port, body, timeout=120):
    """(status, body, headers, seconds) of one synchronous native request for a PNG."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    start = time.monotonic()
    try:
        connection.request("POST", "/v1/jobs?wait=1", json.dumps(body),
                           {"Content-Type": "application/json", "Accept": "image/png"})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, data, dict((k.lower(), v) for k, v in answer.getheaders()), time.monotonic() - start
    finally:
        connection.close()


class Load:
    """`clients` threads, each asking for the next picture when it has the last. `choose()` gives (key, body)."""

    def __init__(self, port, clients, choose, timeout=120):
        self.port, self.choose, self.timeout = port, choose, timeout
        self.results, self.lock, self.stopping = [], threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(clients)]

    def run(self):
        while not self.stopping.is_set():
            try:
                key, body = self.choose()
            except StopIteration:
                return
            begun = time.monotonic()
            try:
                status, data, headers, seconds = draw(self.port, body, self.timeout)
            except OSError as error:
                status, data, headers, seconds = 0, repr(error).encode(), {}, time.monotonic() - begun
            with self.lock:
                self.results.append((key, status, data, headers, seconds, time.monotonic()))
            if status in (429, 503):
                self.stopping.wait(self.pause(headers))

    def pause(self, headers):
        return float(headers.get("retry-after", 1))

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        self.stopping.set()
        return self.join()

    def join(self):
        """Waits for clients that end by themselves, as those do whose `choose` raises StopIteration."""
        for thread in self.threads:
            thread.join(self.timeout)
        return self.results


def rss_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
