"""The page at "/", in headless Chromium, driven over its DevTools protocol on a pair of pipes. Screenshots are in each
test's tmp_path."""

import base64
import fcntl
import hashlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

WAIT_SECONDS = 120  # a sanitized build is slow
WIDE, NARROW = (1280, 800), (360, 740)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
CTRL, SHIFT = 2, 8


class Browser:
    """One Chromium process."""

    def __init__(self, program, profile, log):
        to_browser, self.writer = os.pipe()
        self.reader, from_browser = os.pipe()
        # Chromium wants 3 and 4; first out of the way of these numbers.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_browser, from_browser)]

        def place():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False, preexec_fn=place)
        for fd in (to_browser, from_browser, *ends):
            os.close(fd)
        self.received, self.number, self.events = b"", 0, []

    def read_message(self, deadline):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.reader], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self.reader, 1 << 20)
            assert data, "Chromium has ended"
            self.received += data
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writer, data):]
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self.read_message(deadline)
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.writer)
        os.close(self.reader)


class Page:
    """A tab with storage of its own."""

    def __init__(self, browser, folder):
        self.browser, self.folder = browser, folder
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in "Page", "Runtime", "Log", "DOM":
            self.call(domain + ".enable")
        self.resize(WIDE)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def resize(self, size, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return self

    def open_ready(self, url):
        self.open(url)
        self.wait("document.getElementById('sampler').options.length")
        return self

    def eval(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=WAIT_SECONDS):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                value = self.eval(expression)
            except AssertionError:  # between two documents
                value = None
            if value:
                return value
            time.sleep(0.03)
        self.shoot("timeout")
        pytest.fail(f"never true: {expression}; status {self.text('status')!r}, problem {self.text('problem')!r}")

    def text(self, name):
        return self.eval(f"document.getElementById({name!r}).textContent.trim()")

    def focused(self):
        return self.eval("document.activeElement.id || document.activeElement.className")

    def click(self, selector):
        """With the mouse, where the element is seen."""
        x, y = self.eval(f"""(() => {{
            const found = document.querySelector({selector!r});
            found.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in "mousePressed", "mouseReleased":
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key, modifiers=0):
        text = {"Enter": "\r", " ": " "}.get(key) if not modifiers else None
        common = {"key": key, "code": "Space" if key == " " else key, "modifiers": modifiers,
                  "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown",
                  **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Into what has the focus, instead of what it holds."""
        self.eval("document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def fill(self, **values):
        for name, value in values.items():
            self.click("#" + name)
            self.type(str(value))

    def upload(self, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#init_image")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def shoot(self, name):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        (self.folder / f"{name}.png").write_bytes(base64.b64decode(data))

    def watch(self):
        """Records what the status and the picture were, so that nothing is missed between two looks."""
        self.eval("""(() => {
            window.seen = {status: [], sources: []};
            const watch = (id, note) => new MutationObserver(note).observe(document.getElementById(id),
                {childList: true, characterData: true, subtree: true, attributes: true});
            watch('status', () => seen.status.push(document.getElementById('status').textContent));
            watch('current', () => seen.sources.push(document.getElementById('current').src.slice(0, 21)));
        })()""")

    def wait_done(self, count=1):
        self.wait("document.getElementById('cancel').disabled && /Done|pictures done in/.test("
                  "document.getElementById('status').textContent)")
        assert self.eval("document.querySelectorAll('.card').length") == count

    def job(self, daemon, headers=None):
        """The newest job of the page, as the server has it."""
        name = self.wait("(JSON.parse(sessionStorage.getItem('asdm.jobs')) || [])[0]")
        return daemon.request("GET", "/v1/jobs/" + name, headers=headers).json()

    def faults(self):
        """Exceptions and complaints of the browser; answers of 4xx are the tests' business."""
        self.eval("0")  # whatever was on its way is here after this
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        found = [event["params"]["exceptionDetails"] for event in own if event["method"] == "Runtime.exceptionThrown"]
        entries = [event["params"]["entry"] for event in own if event["method"] == "Log.entryAdded"]
        return found + [entry for entry in entries if entry["level"] == "error" and entry["source"] != "network"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("chromium")
    with open(folder / "log", "wb") as log:
        browser = Browser(program, folder / "profile", log)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(browser, tmp_path):
    page = Page(browser, tmp_path)
    yield page
    faults = page.faults()
    page.close()
    assert not faults


def test_draw(page, daemon):
    page.open_ready(daemon.url + "/")
    assert page.eval("document.getElementById('width').value") == "256"
    assert page.eval("document.querySelector('[data-field=model]').hidden")
    page.shoot("start")
    page.watch()
    page.fill(prompt="a large red house in the snow at night", guidance_scale=5, seed=7)
    page.click("#generate")
    page.wait("!document.getElementById('cancel').disabled")
    page.wait("window.seen.sources.some((source) => source.startsWith('data:image/png;base64'))")
    page.shoot("preview")
    page.wait_done()
    page.shoot("done")
    seen = page.eval("window.seen")
    steps = [int(match[1]) for text in seen["status"] if (match := re.fullmatch(r"Step (\d+) of \d+", text))]
    assert len(set(steps)) >= 3 and steps == sorted(steps)
    assert page.eval("document.getElementById('current').src.startsWith('blob:')")
    assert page.eval("document.getElementById('current').decode().then(() => "
                     "[document.getElementById('current').naturalWidth, "
                     "document.getElementById('current').naturalHeight])") == [256, 256]
    assert "seed 7" in page.text("status") and page.text("last-seed-value") == "7"
    assert page.eval("document.querySelector('.download').download") == "7.png"

    job = page.job(daemon)
    assert job["status"] == "succeeded" and job["request"]["prompt"] == "a large red house in the snow at night"
    assert (job["request"]["guidance_scale"], job["request"]["seed"]) == (5, 7)
    # What is shown is what the server drew.
    png = daemon.request("GET", job["images"][0]["url"]).body
    shown = page.eval("""(async () => {
        const image = document.getElementById('current'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext('2d').drawImage(image, 0, 0);
        return canvas.toDataURL().split(',')[1];
    })()""")
    as_array = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (png, base64.b64decode(shown))]
    assert np.array_equal(*as_array)
    assert re.fullmatch(r"[\d.]+ m?s", page.wait("/s$/.test(document.getElementById('latency').textContent) && "
                                                 "document.getElementById('latency').textContent"))


def test_random_seed_is_shown_and_used_again(page, daemon):
    page.open_ready(daemon.url + "/")
    page.fill(prompt="a small blue boat", steps=3, width=64, height=64, count=2)
    page.click("#generate")
    page.wait_done(2)
    seed = page.job(daemon)["request"]["seed"]
    assert page.text("last-seed-value") == str(seed) and page.eval("document.getElementById('seed').value") == ""
    page.click("#seed-again")
    assert page.eval("document.getElementById('seed').value") == str(seed)
    page.click("#generate")
    page.wait("document.querySelectorAll('.card').length === 4")
    seeds = page.eval("[...document.querySelectorAll('.card-seed')].map((text) => text.textContent)")
    assert seeds == [str(seed + 1), str(seed)] * 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_pictures_of_a_job_stand_in_order(page, daemon, order):
    """Whichever of them is finished first."""
    cards = "[...document.querySelectorAll('.card-seed')].map((text) => text.textContent)"
    page.open_ready(daemon.url + "/")
    page.eval(f"""(() => {{
        const real = window.fetch;
        window.fetch = async (path, options) => {{
            const answer = await real(path, options);
            if (!path.endsWith('/events')) return answer;
            const events = (await answer.text()).split('\\n\\n').filter((event) => event);
            const pictures = {list(order)}.map((index) => events.find((event) => event.startsWith('event: picture') &&
                event.includes(`"index":${{index}}`)));
            return new Response([...pictures, events.at(-1)].map((event) => event + '\\n\\n').join(''));
        }};
    }})()""")
    for seed, count in (5, 3), (1, 6):
        page.fill(prompt="a small blue boat", steps=2, width=64, height=64, count=3, seed=seed)
        page.click("#generate")
        page.wait_done(count)
    assert page.eval(cards) == ["3", "2", "1", "7", "6", "5"]
    page.open_ready(daemon.url + "/")
    page.wait("document.querySelectorAll('.card').length === 6")
    assert page.eval(cards) == ["3", "2", "1", "7", "6", "5"]


def test_keyboard_only(page, daemon):
    page.open_ready(daemon.url + "/")
    assert page.focused() == "prompt"
    page.type("a tall green tree")
    order = []
    while page.focused() != "generate":
        assert page.eval("getComputedStyle(document.activeElement).outlineStyle") != "none", page.focused()
        page.press("Tab")
        order.append(page.focused())
        if order[-1] in ("steps", "width", "height"):
            page.type("5" if order[-1] == "steps" else "64")
        assert len(order) < 20
    assert order == ["negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "schedule", "seed",
                     "count", "init_image", "generate"]
    page.press("Enter")
    page.wait_done()
    assert page.focused() == "generate"
    while page.focused() != "enlarge":
        page.press("Tab")
    page.press("Enter")
    page.wait("document.getElementById('viewer').open")
    page.shoot("viewer")
    assert page.text("viewer-prompt") == "a tall green tree"
    page.press("Escape")
    page.wait("!document.getElementById('viewer').open")
    assert page.focused() == "enlarge"
    page.press("Enter", CTRL)  # from anywhere
    page.wait("document.querySelectorAll('.card').length === 2")
    assert page.eval("document.getElementById('announcement').getAttribute('aria-live')") == "polite"
    page.wait("document.getElementById('announcement').textContent.startsWith('Done')")


def test_every_control_has_a_name(page, daemon):
    page.open_ready(daemon.url + "/")
    page.fill(prompt="a white tent", steps=2, width=64, height=64)
    page.press("Enter", CTRL)
    page.wait_done()
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "spinbutton", "combobox", "slider", "link", "image", "progressbar", "dialog")
    nameless = [node["role"]["value"] for node in tree
                if not node["ignored"] and node["role"]["value"] in roles and not node.get("name", {}).get("value")]
    assert not nameless


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_narrow(page, daemon, dark):
    page.resize(NARROW, dark)
    page.open_ready(daemon.url + "/")
    page.shoot("start")
    page.fill(prompt="a red house " + "m" * 200, steps=3)
    page.click("#generate")
    page.wait_done()
    page.shoot("done")
    width = "document.documentElement.scrollWidth"
    assert page.eval(width) <= NARROW[0]
    page.click(".card .again")
    page.wait("!document.getElementById('strength').closest('.field').hidden")
    page.shoot("strength")
    page.fill(steps=0)
    page.press("Enter", CTRL)
    page.wait("document.getElementById('steps-error').textContent")
    page.shoot("error")
    assert page.eval("(({top, bottom}) => top >= 0 && bottom <= innerHeight)"
                     "(document.getElementById('steps').getBoundingClientRect())")
    assert page.eval(width) <= NARROW[0]
    page.click(".enlarge")
    page.shoot("viewer")
    assert page.eval(width) <= NARROW[0]
    assert page.eval("document.getElementById('viewer').scrollWidth <= document.getElementById('viewer').clientWidth")
    assert page.eval("document.getElementById('viewer').scrollTop") == 0
    ground = page.eval("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == dark


@pytest.mark.parametrize("field, value", [("steps", 0), ("width", 13), ("guidance_scale", -2), ("count", 100000),
                                          ("seed", -1), ("prompt", "x" * 9000)])
def test_error_is_shown_at_its_field(page, daemon, field, value):
    page.open_ready(daemon.url + "/")
    page.fill(**{"prompt": "a red house", field: value})
    page.click("#generate")
    message = page.wait(f"document.getElementById('{field}-error').textContent")
    page.shoot("error")
    assert "must" in message and not message.startswith(field)
    assert page.focused() == field
    assert page.eval(f"document.getElementById('{field}').getAttribute('aria-invalid')") == "true"
    assert message in page.text("announcement")
    assert page.eval("document.querySelectorAll('[aria-invalid]').length") == 1
    good = {"steps": 2, "width": 64, "guidance_scale": 5, "count": 1, "seed": 1, "prompt": "a red house"}
    page.fill(**{"height": 64, "width": 64, "steps": 2, field: good[field]})
    page.click("#generate")
    page.wait_done()
    assert page.eval("document.querySelectorAll('[aria-invalid]').length") == 0 and page.text(f"{field}-error") == ""


def test_cancel(page, daemon):
    page.open_ready(daemon.url + "/")
    page.fill(prompt="a long one", steps=150, count=8)
    page.click("#generate")
    page.wait("/Step [1-9]/.test(document.getElementById('status').textContent)")
    page.click("#cancel")
    page.wait("document.getElementById('status').textContent === 'Cancelled'")
    page.shoot("cancelled")
    assert page.job(daemon)["status"] == "cancelled"
    assert page.focused() == "generate" and page.eval("document.getElementById('cancel').disabled")
    assert page.text("problem") == "" and page.eval("document.getElementById('gallery').hidden")
    page.fill(prompt="a short one", steps=2, count=1, width=64, height=64)
    page.click("#generate")
    page.wait_done()


def test_image_to_image(page, daemon, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "start.jpg")  # becomes a PNG of the right size on its way
    (tmp_path / "bad.png").write_bytes(b"this is no picture")
    page.open_ready(daemon.url + "/")
    page.fill(prompt="a yellow flower", steps=10, width=128, height=64, seed=3)
    page.upload(tmp_path / "bad.png")
    page.wait("document.getElementById('init_image-error').textContent")
    page.upload(tmp_path / "start.jpg")
    page.wait("!document.getElementById('init-thumbnail').hidden && "
              "!document.getElementById('strength').closest('.field').hidden")
    assert page.text("init_image-error") == ""
    page.shoot("chosen")
    page.click("#generate")
    page.wait_done()
    job = page.job(daemon)
    assert (job["kind"], job["request"]["strength"], job["request"]["width"], job["request"]["height"]) == (
        "i2i", 0.75, 128, 64)

    page.click(".card .again")  # from the gallery
    page.wait("document.activeElement.id === 'strength'")
    page.eval("document.getElementById('strength').value = 0.2")
    page.press("Enter", CTRL)
    page.wait_done(2)
    again = page.job(daemon)
    assert (again["kind"], again["request"]["strength"]) == ("i2i", 0.2) and again["id"] != job["id"]
    # At low strength it stays close to where it started.
    first, second = (np.asarray(Image.open(io.BytesIO(daemon.request("GET", one["images"][0]["url"]).body)), float)
                     for one in (job, again))
    assert np.abs(first - second).mean() < 40
    page.click("#init-remove")
    page.press("Enter", CTRL)
    page.wait_done(3)
    assert page.job(daemon)["kind"] == "t2i"


def test_drop(page, daemon):
    page.open_ready(daemon.url + "/")
    page.eval("""(async () => {
        const canvas = document.createElement('canvas');
        const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/webp'));
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], 'dropped.webp', {type: 'image/webp'}));
        for (const type of ['dragover', 'drop'])
            document.getElementById('drop').dispatchEvent(
                new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    })()""")
    page.wait("!document.getElementById('init-thumbnail').hidden")
    assert not page.eval("document.getElementById('drop').classList.contains('over')")


def test_session_survives_a_reload(page, daemon):
    page.open_ready(daemon.url + "/")
    page.fill(prompt="first", steps=2, width=64, height=64, seed=5)
    page.click("#generate")
    page.wait_done()
    page.fill(prompt="second", steps=150, width=256, height=256, count=8)
    page.click("#generate")
    page.wait("/Step [1-9]/.test(document.getElementById('status').textContent)")
    page.open_ready(daemon.url + "/")
    page.wait("!document.getElementById('cancel').disabled && "
              "/Step [1-9]/.test(document.getElementById('status').textContent)")
    page.wait("document.querySelector('.card-prompt')?.textContent === 'first'")
    assert page.eval("document.getElementById('prompt').value") == "second"
    page.click("#cancel")
    page.wait("document.getElementById('status').textContent === 'Cancelled'")
    page.click(".enlarge")
    page.click("#viewer-settings")
    assert page.eval("['prompt', 'seed', 'width', 'steps'].map((id) => document.getElementById(id).value)") == [
        "first", "5", "64", "2"]
    page.click("#gallery-clear")
    assert page.eval("document.getElementById('gallery').hidden && !document.querySelector('.card')")


def test_key_is_asked_for(page, start_daemon, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"ann {hashlib.sha256(b'alpha').hexdigest()}\n")
    daemon = start_daemon(api_keys=str(keys))
    page.open(daemon.url + "/")
    page.wait("!document.getElementById('key-form').hidden && document.activeElement.id === 'key'")
    page.type("wrong")
    page.press("Enter")
    page.wait("document.getElementById('key-error').textContent.includes('not accept')")
    page.shoot("key")
    page.type("alpha")
    page.press("Enter")
    page.wait("document.getElementById('sampler').options.length && document.getElementById('key-form').hidden")
    page.fill(prompt="a red house", steps=4, width=64, height=64)
    page.click("#generate")
    page.wait_done()
    assert page.job(daemon, {"Authorization": "Bearer alpha"})["status"] == "succeeded"
    page.open_ready(daemon.url + "/")
    page.wait("document.querySelectorAll('.card').length === 1")


def test_files(daemon):
    types = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/favicon.svg": "image/svg+xml"}
    for path, content_type in types.items():
        answer = daemon.request("GET", path)
        assert answer.status == 200 and answer.headers["Content-Type"].startswith(content_type)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'; img-src 'self' data: blob:" in policy and "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-cache" and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"(https?:)?//[\w-]+\.\w", answer.text.replace("http://www.w3.org/2000/svg", ""))
    assert daemon.request("POST", "/", b"").status == 405
