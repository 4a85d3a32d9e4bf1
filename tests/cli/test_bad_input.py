"""Bad options, pictures, disks and prompts: a message that names the thing, exit 1 or 2, no output file.

Damaged checkpoints are in test_bad_model.py. The asdm fixture fails every test in which the tool crashes or a sanitizer
reports something.
"""

import os
import subprocess
import sys
import time

import pytest

import pictures


def refuse(asdm, model, folder, *arguments, codes=(1, 2), named=(), **options):
    """Runs generate with bad arguments; checks exit code, names in the message, that nothing is left in `folder`."""
    before = sorted(folder.iterdir())
    done = asdm.generate(model, folder / "out.png", *arguments, check=False, **options)
    assert done.returncode in codes, f"exit {done.returncode}: {done.stderr}"
    assert done.stderr.strip(), "no message"
    for name in named:
        assert str(name) in done.stderr, f"{name} is not named:\n{done.stderr}"
    assert sorted(folder.iterdir()) == before, "files were left"
    return done


# --- options


@pytest.mark.parametrize("option, value", [
    ("steps", "0"), ("steps", "-1"), ("steps", "abc"), ("steps", "1e2"), ("steps", "2.5"), ("steps", "1001"), ("steps", "3x"),
    ("steps", "99999999999999999999"), ("steps", " 3"), ("steps", ""),
    ("width", "0"), ("width", "-8"), ("width", "100"), ("width", "7"), ("width", "64.0"), ("width", "18446744073709551616"),
    ("height", "0"), ("height", "-64"), ("height", "65"), ("height", "4294967296"), ("height", "abc"),
    ("guidance-scale", "nan"), ("guidance-scale", "inf"), ("guidance-scale", "x"), ("guidance-scale", "1e999"),
    ("seed", "abc"), ("seed", "1.5"), ("seed", "99999999999999999999"),
    ("count", "0"), ("count", "-1"), ("count", "1.5"),
    ("threads", "-1"), ("threads", "many"), ("threads", "1000000"),
    ("sampler", ""), ("sampler", "euler_b"), ("sampler", "eulerr"),
    ("schedule", "linear"), ("rng", "dice"), ("dtype", "fp8"), ("device", "tpu"), ("device", "cuda:-1"), ("device", "cuda:x"),
])
def test_option_values(asdm, small_model, tmp_path, option, value):
    codes = (1, 2) if option in ("width", "height", "device") else (2,)
    refuse(asdm, small_model, tmp_path, f"--{option}={value}", codes=codes, named=[option])


@pytest.mark.parametrize("value, named", [("0", "width"), ("100", "8"), ("-8", "width")])
def test_size_messages(asdm, small_model, tmp_path, value, named):
    done = refuse(asdm, small_model, tmp_path, f"--width={value}", named=[named])
    assert value in done.stderr


@pytest.mark.parametrize("option, known", [
    ("schedule", ("default", "karras", "exponential", "sgm_uniform")),
    ("rng", ("philox", "torch")),
    ("dtype", ("fp32", "bf16", "fp16")),
    ("device", ("cpu", "ref")),
])
def test_unknown_values_list_the_known(asdm, small_model, tmp_path, option, known):
    refuse(asdm, small_model, tmp_path, f"--{option}=wrong", codes=(2,), named=("wrong", *known))


@pytest.mark.parametrize("strength", ["-0.1", "1.5", "nan", "x", ""])
def test_strength(asdm, small_model, tmp_path, strength):
    (tmp_path / "init.png").write_bytes(pictures.encode(pictures.scene(64, 64), 8, pictures.RGB))
    refuse(asdm, small_model, tmp_path, "--init-image", tmp_path / "init.png", f"--strength={strength}", codes=(2,),
           named=["strength"])


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "lcm"])
def test_schedule_that_a_sampler_lacks(asdm, small_model, tmp_path, sampler):
    refuse(asdm, small_model, tmp_path, f"--sampler={sampler}", "--schedule=karras", named=["karras"])


def test_no_cuda(asdm, small_model, tmp_path):
    """Only where there is none: a clear message, not a fall-back in silence."""
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this machine may have a CUDA device")
    refuse(asdm, small_model, tmp_path, "--device=cuda", codes=(1, 2), named=["cuda"])


# --- sizes


@pytest.mark.parametrize("width, height", [(1000000, 1000000), (2147483640, 2147483640), (8, 2147483640), (200000, 200000)])
def test_sizes_beyond_memory(asdm, small_model, tmp_path, width, height):
    """Refused from arithmetic: at once, however much memory the machine has."""
    start = time.monotonic()
    done = refuse(asdm, small_model, tmp_path, f"--width={width}", f"--height={height}", timeout=60)
    assert time.monotonic() - start < 15
    assert "memory" in done.stderr or "width" in done.stderr or "height" in done.stderr


def test_size_beyond_the_address_space_limit(asdm, small_model, tmp_path):
    done = refuse(asdm, small_model, tmp_path, "--width=16000", "--height=16000", memory_max=3 << 30, codes=(1, 2))
    assert "memory" in done.stderr


# A process of its own, because a child's peak starts at that of the process that made it, and pytest is large.
WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.parametrize("side", [1000000, 100000, 32768])
def test_peak_stays_small_when_a_size_is_refused(asdm, small_model, tmp_path, side):
    """Checked before allocating: the refused run has touched less than 256 MB."""
    command = [sys.executable, "-c", WATCH, asdm.path, "generate", "--model", small_model, "--prompt", "a", "--output",
               tmp_path / "o.png", "--width", side, "--height", side]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    code, peak_kb = map(int, done.stdout.split())
    assert code in (1, 2)
    assert peak_kb < 256 << 10
    assert not list(tmp_path.iterdir())


# --- init images


@pytest.fixture(scope="module")
def scene():
    return pictures.scene(64, 64)


@pytest.mark.parametrize("kind", sorted(pictures.kinds(pictures.scene(8, 8))))
def test_png_kinds_work(asdm, small_model, tmp_path, scene, kind):
    """Same picture as from the same pixels in plain 8-bit RGB."""
    data, shown = pictures.kinds(scene)[kind]
    (tmp_path / "kind.png").write_bytes(data)
    (tmp_path / "plain.png").write_bytes(pictures.encode(shown, 8, pictures.RGB))
    for name in ("kind", "plain"):
        asdm.generate(small_model, tmp_path / f"{name}-out.png", "--init-image", tmp_path / f"{name}.png", "--strength=0.5",
                      "--steps=4")
    assert pictures.equal(tmp_path / "kind-out.png", tmp_path / "plain-out.png")


def jpeg(folder):
    from PIL import Image

    Image.fromarray(pictures.scene(64, 64)).save(folder / "photo.jpg")
    return (folder / "photo.jpg").read_bytes()


def broken_pngs(folder):
    good = pictures.encode(pictures.scene(64, 64), 8, pictures.RGB)
    head = len(pictures.SIGNATURE)
    wrong_sum = bytearray(good)
    wrong_sum[head + 8 + 13] ^= 1
    end = pictures.chunk(b"IEND")
    data = pictures.chunk(b"IDAT", b"\x78\x9c\x03\x00\x00\x00\x00\x01")
    sig = pictures.SIGNATURE
    return {
        "empty": b"",
        "one-byte": b"\x89",
        "text": b"this is not a picture\n",
        "jpeg": jpeg(folder),
        "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        "signature-only": sig,
        "truncated": good[: len(good) // 2],
        "without-end": good[:-20],
        "header-sum": bytes(wrong_sum),
        "zero-width": sig + pictures.header(0, 64, 8, pictures.RGB) + data + end,
        "zero-height": sig + pictures.header(64, 0, 8, pictures.RGB) + data + end,
        "bad-depth": sig + pictures.header(64, 64, 3, pictures.RGB) + data + end,
        "bad-colour": sig + pictures.header(64, 64, 8, 5) + data + end,
        "no-data": sig + pictures.header(64, 64, 8, pictures.RGB) + end,
        "short-data": sig + pictures.header(64, 64, 8, pictures.RGB) + data + end,
        "palette-missing": sig + pictures.header(64, 64, 8, pictures.PALETTE) + data + end,
        "huge-claim": sig + pictures.header(2**31 - 1, 2**31 - 1, 16, pictures.RGBA) + data + end,
        "wide-claim": sig + pictures.header(2**31 - 1, 1, 8, pictures.RGB) + data + end,
        "huge-chunk": sig + b"\x7f\xff\xff\xffIHDR" + b"\0" * 64,
    }


BROKEN = ("empty", "one-byte", "text", "jpeg", "gif", "signature-only", "truncated", "without-end", "header-sum", "zero-width",
          "zero-height", "bad-depth", "bad-colour", "no-data", "short-data", "palette-missing", "huge-claim", "wide-claim",
          "huge-chunk")


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_init_images(asdm, small_model, tmp_path, kind):
    path = tmp_path / f"{kind}.image"
    path.write_bytes(broken_pngs(tmp_path)[kind])
    if kind == "without-end":  # all pixels are there: PIL reads it, libpng may too
        done = asdm.generate(small_model, tmp_path / "out.png", "--init-image", path, check=False)
        assert done.returncode in (0, 1)
        return
    refuse(asdm, small_model, tmp_path, "--init-image", path, named=[path.name], memory_max=8 << 30)


def test_jpeg_is_told_apart(asdm, small_model, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(tmp_path))
    assert "PNG" in refuse(asdm, small_model, tmp_path, "--init-image", path, named=["photo.jpg"]).stderr


def test_png_that_unpacks_to_gigabytes(asdm, small_model, tmp_path):
    """Well-formed, a megabyte on disk, 1.2 GB of pixels."""
    path = tmp_path / "bomb.png"
    path.write_bytes(pictures.bomb(20000, 20000))
    assert path.stat().st_size < 4 << 20
    start = time.monotonic()
    refuse(asdm, small_model, tmp_path, "--init-image", path, named=["bomb.png"])
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("what", ["absent.png", "folder.png"])
def test_init_image_that_is_no_file(asdm, small_model, tmp_path, what):
    (tmp_path / "folder.png").mkdir()
    refuse(asdm, small_model, tmp_path, "--init-image", tmp_path / what, named=[what])


# --- where the output goes. A thousand steps: the check must come before the work.


def test_output_directory_missing(asdm, small_model, tmp_path):
    done = asdm.generate(small_model, tmp_path / "no" / "where.png", "--steps=1000", "--width=256", "--height=256",
                         check=False, timeout=30)
    assert done.returncode in (1, 2)
    assert "where.png" in done.stderr or str(tmp_path / "no") in done.stderr
    assert not list(tmp_path.iterdir())


def test_output_is_a_directory(asdm, small_model, tmp_path):
    (tmp_path / "d.png").mkdir()
    done = asdm.generate(small_model, tmp_path / "d.png", "--steps=1000", "--width=256", "--height=256", check=False,
                         timeout=30)
    assert done.returncode in (1, 2) and "d.png" in done.stderr
    assert not list((tmp_path / "d.png").iterdir())


def test_latents_directory_missing(asdm, small_model, tmp_path):
    refuse(asdm, small_model, tmp_path, "--save-latents", tmp_path / "no" / "l.safetensors", "--steps=1000", "--width=256",
           "--height=256", named=[str(tmp_path / "no")], timeout=30)


@pytest.fixture
def mounted(tmp_path):
    """mounted(options): a fresh tmpfs, unmounted afterwards. Only root can."""
    places = []

    def mount(options):
        place = tmp_path / f"mount-{len(places)}"
        place.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


def test_full_disk(asdm, small_model, mounted):
    place = mounted("size=16k")
    done = asdm.generate(small_model, place / "out.png", "--width=256", "--height=256", "--steps=1", check=False)
    assert done.returncode == 1 and "out.png" in done.stderr
    assert not list(place.iterdir()), "a full disk must not keep half a picture"


def test_full_disk_for_latents(asdm, small_model, mounted):
    place = mounted("size=8k")
    done = asdm.generate(small_model, place / "o.png", "--save-latents", place / "l.safetensors", "--width=512", "--steps=1",
                         check=False)
    assert done.returncode == 1 and "l.safetensors" in done.stderr or "o.png" in done.stderr
    assert not list(place.iterdir())


def test_read_only_directory(asdm, small_model, tmp_path, request):
    if os.geteuid() == 0:  # permissions do not stop root, a read-only mount does
        place = request.getfixturevalue("mounted")("ro,size=1m")
    else:
        place = tmp_path / "closed"
        place.mkdir(mode=0o555)
    done = asdm.generate(small_model, place / "out.png", "--steps=1000", "--width=256", "--height=256", check=False,
                         timeout=30)
    assert done.returncode in (1, 2)
    assert "out.png" in done.stderr or str(place) in done.stderr
    assert not list(place.iterdir())


# --- prompts


def test_empty_prompt_works(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "o.png", "--prompt", "")
    asdm.generate(small_model, tmp_path / "space.png", "--prompt", " \t\n ")
    assert pictures.equal(tmp_path / "o.png", tmp_path / "space.png")


@pytest.mark.parametrize("unit", ["a red house ", "a", "a1", "\u00e9", "\U0001f600", "'", " ", "\u0301", "\u4e00"])
def test_prompt_of_100_kilobytes(asdm, small_model, tmp_path, unit):
    """Truncated to 77 tokens, in a moment."""
    count = 100_000 // len(unit.encode())
    start = time.monotonic()
    asdm.generate(small_model, tmp_path / "o.png", "--prompt", unit * count, "--steps=1", timeout=60)
    assert time.monotonic() - start < 10
    if unit == "a red house ":
        asdm.generate(small_model, tmp_path / "short.png", "--prompt", unit * 40, "--steps=1")
        assert pictures.equal(tmp_path / "o.png", tmp_path / "short.png")


@pytest.mark.parametrize("prompt", [b"\xff\xfe", b"caf\xe9", b"a\xc0\xafb", b"\xed\xa0\x80", b"cut \xf0\x9f"])
def test_prompt_that_is_not_utf8(asdm, small_model, tmp_path, prompt):
    done = refuse(asdm, small_model, tmp_path, "--prompt", prompt)
    assert "UTF-8" in done.stderr


# --- models that are not there


@pytest.mark.parametrize("make", ["absent", "empty-directory", "text-file", "device"])
def test_no_model(asdm, tmp_path, make):
    model = {"device": "/dev/null"}.get(make, tmp_path / "model")
    if make == "empty-directory":
        model.mkdir()
    if make == "text-file":
        model.write_text("not a checkpoint\n")
    refuse(asdm, model, tmp_path, named=[model], codes=(1,))
