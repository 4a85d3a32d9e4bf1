"""asdm generate, version and help as INTERFACE says: options, names of outputs, exit codes, what is written where."""

import os
import pty
import re
import signal
import subprocess
import time

import numpy as np
import pytest

import pictures
import tensorfile

SAMPLERS = ("ddim", "pndm", "euler", "euler_a", "heun", "lms", "dpm++_2m", "dpm++_2m_sde", "unipc", "lcm", "ddpm")
VERBS = ("generate", "inspect", "bench")


def test_version(asdm):
    done = asdm("version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+", done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(asdm, verb):
    done = asdm(verb, "--help")
    assert done.returncode == 0
    assert re.search(rf"asdm {verb} .*(--|/|\w)", done.stdout)
    assert re.search("example", done.stdout, re.IGNORECASE)
    assert done.stderr == ""


def test_help_of_generate_lists_every_option(asdm):
    text = asdm("generate", "--help").stdout
    for option in ("model", "prompt", "output", "negative-prompt", "width", "height", "steps", "sampler", "schedule",
                   "guidance-scale", "seed", "rng", "count", "init-image", "strength", "device", "dtype", "threads",
                   "save-latents", "quiet"):
        assert f"--{option}" in text, option
    for sampler in SAMPLERS:
        assert sampler in text, sampler


def test_help_without_verb_lists_the_verbs(asdm):
    done = asdm("--help")
    assert done.returncode == 0
    for verb in (*VERBS, "version"):
        assert verb in done.stdout


@pytest.mark.parametrize("arguments", [(), ("paint",), ("--generate",), ("generate",), ("generate", "--prompt", "x")])
def test_wrong_usage(asdm, arguments):
    done = asdm(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip()


def test_missing_options_are_named(asdm, small_model, tmp_path):
    full = {"--model": small_model, "--prompt": "a", "--output": tmp_path / "o.png"}
    for option in full:
        rest = [part for key, value in full.items() if key != option for part in (key, value)]
        done = asdm("generate", *rest, "--steps", "1")
        assert done.returncode == 2, option
        assert option in done.stderr, f"{option} is not named: {done.stderr}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, named", [
    (("--stepz", "3"), "--stepz"),
    (("--steps",), "--steps"),
    (("--steps=",), "--steps"),
    (("--quiet=yes",), "--quiet"),
    (("stray",), "stray"),
])
def test_unknown_or_incomplete_options(asdm, small_model, tmp_path, arguments, named):
    leave = ("--steps",) if named == "--steps" else ()
    done = asdm.generate(small_model, tmp_path / "o.png", *arguments, check=False, leave_out=leave)
    assert done.returncode == 2
    assert named in done.stderr
    assert not list(tmp_path.iterdir())


def test_value_beside_or_behind_equals(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "a.png", "--guidance-scale", "3.5", "--sampler", "euler")
    asdm.generate(small_model, tmp_path / "b.png", "--guidance-scale=3.5", "--sampler=euler")
    assert pictures.equal(tmp_path / "a.png", tmp_path / "b.png")


def test_prompt_may_look_like_an_option(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "a.png", "--prompt=--help")
    asdm.generate(small_model, tmp_path / "b.png", "--prompt=a=b, c")


def test_output_is_a_png_of_the_asked_size(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "o.png", "--width", "96", "--height", "40")
    raw = (tmp_path / "o.png").read_bytes()
    assert raw.startswith(pictures.SIGNATURE)
    assert pictures.read_rgb(tmp_path / "o.png").shape == (40, 96, 3)


def test_default_size_is_the_models(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "o.png", "--steps=1", leave_out=("--width", "--height"))
    assert pictures.read_rgb(tmp_path / "o.png").shape == (256, 256, 3)


def test_defaults(asdm, small_model, tmp_path):
    """25 steps, guidance 7.5, the checkpoint's scheduler, philox; nothing else is decided by leaving an option out."""
    asdm.generate(small_model, tmp_path / "a.png", leave_out=("--steps",))
    asdm.generate(small_model, tmp_path / "b.png", "--steps=25", "--guidance-scale=7.5", "--sampler=pndm",
                  "--schedule=default", "--rng=philox", "--count=1", "--negative-prompt=", "--device=auto", "--dtype=auto")
    assert pictures.equal(tmp_path / "a.png", tmp_path / "b.png")


def test_same_seed_same_bytes(asdm, small_model, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        asdm.generate(small_model, tmp_path / f"{name}.png", f"--seed={seed}")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_two_generators_differ(asdm, small_model, tmp_path):
    for rng in ("philox", "torch"):
        asdm.generate(small_model, tmp_path / f"{rng}.png", f"--rng={rng}")
    assert not pictures.equal(tmp_path / "philox.png", tmp_path / "torch.png")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_thread_counts(asdm, small_model, tmp_path, threads):
    asdm.generate(small_model, tmp_path / "o.png", f"--threads={threads}")
    asdm.generate(small_model, tmp_path / "two.png", "--threads=2")
    one, two = (pictures.read_rgb(tmp_path / name).astype(int) for name in ("o.png", "two.png"))
    assert np.abs(one - two).max() <= 3, "the thread count may change rounding, not the picture"


def test_count_names_files(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "pic.png", "--count=3", "--seed=9", "--steps=1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pic-1.png", "pic-2.png", "pic.png"]
    asdm.generate(small_model, tmp_path / "next.png", "--seed=10", "--steps=1")
    assert pictures.equal(tmp_path / "next.png", tmp_path / "pic-1.png")


def test_output_is_replaced_whole(asdm, small_model, tmp_path):
    (tmp_path / "o.png").write_bytes(b"old" * 100000)
    asdm.generate(small_model, tmp_path / "o.png")
    assert pictures.read_rgb(tmp_path / "o.png").shape == (64, 64, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["o.png"]


def test_output_in_the_working_directory(asdm, small_model, tmp_path):
    done = asdm("generate", "--model", small_model, "--prompt", "a tent", "--output", "o.png", "--steps", "1", "--width",
                "64", "--height", "64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.png").exists()


def test_save_latents(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "o.png", "--save-latents", tmp_path / "l.safetensors", "--width=72")
    tensors = tensorfile.read(tmp_path / "l.safetensors")
    assert list(tensors) == ["latents"]
    assert tensors["latents"].shape == (1, 4, 8, 9) and tensors["latents"].dtype == np.float32
    assert np.isfinite(tensors["latents"]).all() and tensors["latents"].std() > 0.1


def test_quiet(asdm, small_model, tmp_path):
    loud = asdm.generate(small_model, tmp_path / "a.png", "--steps=3")
    quiet = asdm.generate(small_model, tmp_path / "b.png", "--steps=3", "--quiet")
    assert loud.stderr.strip() and "\r" not in loud.stderr and "\x1b" not in loud.stderr
    assert quiet.stderr == ""
    assert pictures.equal(tmp_path / "a.png", tmp_path / "b.png")


def test_progress_bar_on_a_terminal(asdm, small_model, tmp_path):
    """Step, total, seconds per step and ETA, drawn over itself."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([asdm.path, "generate", "--model", small_model, "--prompt", "a", "--output",
                                tmp_path / "o.png", "--steps", "12", "--width", "64", "--height", "64"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 4096):
            shown += piece
    except OSError:  # the other side is closed
        pass
    os.close(leader)
    assert process.wait(60) == 0
    process.stdout.close()
    text = shown.decode()
    assert "\r" in text.replace("\r\n", "\n")
    assert re.search(r"12\s*/\s*12", text) and re.search("s/step|it/s", text) and re.search("ETA", text, re.IGNORECASE)


@pytest.mark.parametrize("alias, canonical", [
    ("Euler a", ("euler_a", "default")),
    ("Euler", ("euler", "default")),
    ("DDIM", ("ddim", "default")),
    ("Heun", ("heun", "default")),
    ("LMS", ("lms", "default")),
    ("LCM", ("lcm", "default")),
    ("UniPC", ("unipc", "default")),
    ("DPM++ 2M", ("dpm++_2m", "default")),
    ("DPM++ 2M Karras", ("dpm++_2m", "karras")),
    ("DPM++ 2M SDE Karras", ("dpm++_2m_sde", "karras")),
    ("DPM++ 2M SDE", ("dpm++_2m_sde", "default")),
    ("LMS Karras", ("lms", "karras")),
    ("euler A", ("euler_a", "default")),
])
def test_sampler_aliases(asdm, small_model, tmp_path, alias, canonical):
    sampler, schedule = canonical
    asdm.generate(small_model, tmp_path / "a.png", f"--sampler={alias}", "--steps=3")
    asdm.generate(small_model, tmp_path / "b.png", f"--sampler={sampler}", f"--schedule={schedule}", "--steps=3")
    assert pictures.equal(tmp_path / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(asdm, small_model, tmp_path, sampler):
    asdm.generate(small_model, tmp_path / "o.png", f"--sampler={sampler}", "--steps=3")
    assert pictures.read_rgb(tmp_path / "o.png").std() > 3


def test_unknown_sampler_lists_the_known(asdm, small_model, tmp_path):
    done = asdm.generate(small_model, tmp_path / "o.png", "--sampler=eulr", check=False)
    assert done.returncode == 2
    assert "eulr" in done.stderr
    for sampler in SAMPLERS:
        assert sampler in done.stderr
    assert not list(tmp_path.iterdir())


def test_negative_prompt_matters_with_guidance_only(asdm, small_model, tmp_path):
    def draw(name, *arguments):
        asdm.generate(small_model, tmp_path / name, *arguments)
        return tmp_path / name

    negative = ("--negative-prompt", "in the rain")
    assert not pictures.equal(draw("a.png"), draw("b.png", *negative))
    assert pictures.equal(draw("c.png", "--guidance-scale=1"), draw("d.png", "--guidance-scale=1", *negative))


def test_image_to_image(asdm, small_model, tmp_path):
    """Little strength stays near the init image, resized to the size asked for."""
    (tmp_path / "init.png").write_bytes(pictures.encode(pictures.scene(128, 128), 8, pictures.RGB))
    asdm.generate(small_model, tmp_path / "o.png", "--init-image", tmp_path / "init.png", "--strength=0.1", "--steps=20",
                  "--width=128", "--height=128")
    far = pictures.read_rgb(tmp_path / "o.png").astype(int) - pictures.scene(128, 128)
    assert np.abs(far).mean() < 25
    asdm.generate(small_model, tmp_path / "small.png", "--init-image", tmp_path / "init.png", "--width=64", "--height=48",
                  "--steps=4")
    assert pictures.read_rgb(tmp_path / "small.png").shape == (48, 64, 3)


def test_interrupt_leaves_nothing(asdm, small_model, tmp_path):
    """Ctrl-C ends the run within a step and leaves no file, not even a temporary one."""
    process = asdm.start("generate", "--model", small_model, "--prompt", "a boat", "--output", tmp_path / "o.png",
                         "--save-latents", tmp_path / "l.safetensors", "--steps", "900", "--width", "256", "--height",
                         "256", "--sampler", "euler", "--threads", "1")
    time.sleep(3)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert b"Sanitizer" not in stderr
    assert not list(tmp_path.iterdir())


def test_no_behaviour_by_environment(asdm, small_model, tmp_path):
    asdm.generate(small_model, tmp_path / "a.png")
    asdm.generate(small_model, tmp_path / "b.png", env={"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"})
    assert pictures.equal(tmp_path / "a.png", tmp_path / "b.png")
