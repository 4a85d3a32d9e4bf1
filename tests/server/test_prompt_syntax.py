"""Attention, BREAK and long prompts, as the A1111 dialect takes them: which prompts give the same picture."""
import base64
import io
import json
import urllib.request

import pytest
from PIL import Image

QUICK = {"width": 64, "height": 64, "steps": 3, "seed": 7, "cfg_scale": 5, "sampler_name": "Euler"}
LONG = "a red square on a blue ground, " * 12  # two chunks


@pytest.fixture
def draw(daemon):
    def post(path, body):
        request = urllib.request.Request(daemon.url.rstrip("/") + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json", **(daemon.headers or {})})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def pixels(prompt, **fields):
        answer = post("/sdapi/v1/txt2img", {**QUICK, "prompt": prompt, **fields})
        return Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).tobytes()

    return pixels


@pytest.mark.parametrize("one, other", [
    ("a red square", "a (red:1) square"),
    ("a red square", "a [(red)] square"),
    ("a (red:1.1) square", "a (red) square"),
    ("(a red square:1.5)", "(a red square: 1.5 )"),
    ("red (square", "red (square)"),
    (LONG + "BREAK a circle", LONG + "\nBREAK\na circle"),
])
def test_same_picture(draw, one, other):
    assert draw(one) == draw(other)


@pytest.mark.parametrize("one, other", [
    ("a red square", "a (red:1.8) square"),
    ("a (red) square", "a [red] square"),
    ("a (red) square", "a \\(red\\) square"),
    ("a red square", "a red BREAK square"),
    (LONG, LONG + "a green circle"),  # past the first 75 tokens
])
def test_other_picture(draw, one, other):
    assert draw(one) != draw(other)


def test_negative_prompt(draw):
    plain = draw("a red square", negative_prompt="blue circle")
    assert plain == draw("a red square", negative_prompt="(blue:1) circle")
    assert plain != draw("a red square", negative_prompt="(blue:1.8) circle")


def test_prompts_of_different_length(draw):
    """The shorter of prompt and negative prompt is padded with empty chunks."""
    assert draw(LONG, negative_prompt="blue") != draw(LONG, negative_prompt="blue BREAK green")
    assert draw("a red square", negative_prompt=LONG) == draw("a red square", negative_prompt=LONG + " ")


def test_plain_syntax(draw):
    """With prompt_syntax "plain" brackets are text and what follows the first 75 tokens is cut off."""
    assert draw("a (red:1) square", prompt_syntax="plain") != draw("a red square", prompt_syntax="plain")
    assert draw(LONG, prompt_syntax="plain") == draw(LONG + "a green circle", prompt_syntax="plain")
    assert draw("a red square", prompt_syntax="plain") == draw("a red square")
