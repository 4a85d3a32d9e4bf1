"""Options and fixtures of the black-box tests. Run through tests/run, or by hand: pytest tests --build-dir build."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS / "support"))

import tensorfile  # noqa: E402
import zoo_stamp  # noqa: E402
from reports import REPORTS  # noqa: E402

NEEDED = ("torch", "diffusers", "transformers", "scipy")


def pytest_addoption(parser):
    group = parser.getgroup("asdm")
    group.addoption("--build-dir", type=Path, default=ROOT / "build", help="meson build directory that holds asdm")
    group.addoption("--zoo", type=Path, help="directory of the generated checkpoints (default: BUILD_DIR/zoo)")
    group.addoption("--devices", default="cpu,ref", help="back ends to test, of those in the build (default: cpu,ref); tests of the daemon take the first")
    group.addoption("--quick", action="store_true", help="fewer cases: no slow ones, one per sampler and architecture")
    group.addoption("--require-diffusers", action="store_true", help="fail where torch or diffusers is missing")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        left_out = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# --- the zoo: parametrised at collection, so it is built there when it is missing or stale


def zoo_directory(config):
    return config.getoption("--zoo") or config.getoption("--build-dir") / "zoo"


def zoo_cases(config):
    """(cases, reason why there are none)."""
    if hasattr(config, "asdm_zoo"):
        return config.asdm_zoo
    directory, tokenizer = zoo_directory(config), ROOT / "deploy" / "models" / "scenes-256" / "tokenizer"
    config.asdm_zoo = [], ""
    if not tokenizer.is_dir():
        config.asdm_zoo = [], f"{tokenizer} is missing"
    elif not zoo_stamp.is_current(directory, tokenizer):
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            config.asdm_zoo = [], f"needs Python packages that are missing: {' '.join(missing)}"
        else:
            made = subprocess.run([sys.executable, TESTS / "support" / "make_zoo.py", tokenizer, directory],
                                  stderr=subprocess.PIPE, text=True)
            if made.returncode:
                raise pytest.UsageError(f"make_zoo.py failed:\n{made.stderr[-3000:]}")
    if not config.asdm_zoo[1]:
        files = sorted((directory / "cases").glob("*.json"))
        config.asdm_zoo = [json.loads(path.read_text()) for path in files], ""
    return config.asdm_zoo


def in_quick_set(case):
    """Each architecture once, each sampler once."""
    name = case["name"]
    return name.endswith("-first") or name.startswith("one-file") or name in ("sd15-odd", "sd15-i2i-odd") or (
        case["model"] == "sd15" and "init_image" not in case and "step" not in name and "schedule" not in case
        and name.removeprefix("sd15-") == case["sampler"].replace("+", "p"))


def pytest_generate_tests(metafunc):
    if "zoo_case" not in metafunc.fixturenames:
        return
    cases, reason = zoo_cases(metafunc.config)
    keep = getattr(metafunc.function, "zoo_filter", lambda case: True)
    cases = [case for case in cases if keep(case)]
    if metafunc.config.getoption("--quick"):
        cases = [case for case in cases if in_quick_set(case)]
    if cases or not reason:
        metafunc.parametrize("zoo_case", cases, ids=[case["name"] for case in cases])
    elif metafunc.config.getoption("--require-diffusers"):
        raise pytest.UsageError(f"no zoo: {reason}")
    else:
        metafunc.parametrize("zoo_case", [pytest.param(None, marks=pytest.mark.skip(reason=f"no zoo: {reason}"))])


# --- places


@pytest.fixture(scope="session")
def build_dir(request):
    directory = request.config.getoption("--build-dir").resolve()
    if not (directory / "asdm").exists():
        pytest.fail(f"{directory}/asdm is missing: build first (meson setup build; ninja -C build)", pytrace=False)
    return directory


@pytest.fixture(scope="session")
def models_dir():
    return ROOT / "deploy" / "models" / "scenes-256"


@pytest.fixture(scope="session")
def golden_dir():
    return TESTS / "golden" / "data"


@pytest.fixture(scope="session")
def zoo(request):
    """Directory with models/ and cases/."""
    _, reason = zoo_cases(request.config)
    if reason and request.config.getoption("--require-diffusers"):
        pytest.fail(f"no zoo: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"no zoo: {reason}")
    return zoo_directory(request.config).resolve()


@pytest.fixture(scope="session")
def small_model(models_dir):
    """What tests of the command line draw with, 64x64 in a moment; there without the zoo."""
    return models_dir


def has_bf16():
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@pytest.fixture(scope="session")
def bf16():
    if not has_bf16():
        pytest.skip("this processor has neither avx512_bf16 nor amx_bf16")


@pytest.fixture(params=["cpu", "ref", "cuda"], scope="session")
def device(request):
    if request.param not in request.config.getoption("--devices").split(","):
        pytest.skip(f"--devices leaves {request.param} out")
    return request.param


@pytest.fixture(params=["cpu", "cuda"], scope="session")
def fast_device(request):
    """Those that draw whole pictures in seconds."""
    if request.param not in request.config.getoption("--devices").split(","):
        pytest.skip(f"--devices leaves {request.param} out")
    return request.param


@pytest.fixture(scope="session")
def cpu(request):
    if "cpu" not in request.config.getoption("--devices").split(","):
        pytest.skip("--devices leaves cpu out")
    return "cpu"


# --- programs


def check_ending(done, command):
    """No test accepts a crash or a sanitizer's report, whatever it tests."""
    shown = " ".join(str(part)[:200] for part in command)
    assert done.returncode >= 0, f"{shown}: killed by signal {-done.returncode}\n{done.stderr[-2000:]}"
    for report in REPORTS:
        assert report not in done.stderr, f"{shown}:\n{done.stderr[-4000:]}"


class Tool:
    """Runs asdm; every call checks that it ended by itself and that no sanitizer spoke."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments, timeout=120, memory_max=None, **options):
        """memory_max: limit of the address space in bytes."""
        command = [self.path, *(argument if isinstance(argument, bytes) else str(argument) for argument in arguments)]

        if memory_max:
            options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_AS, (memory_max, memory_max))
        done = subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, **options)
        done.stdout, done.stderr = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
        check_ending(done, command)
        return done

    def start(self, *arguments, **options):
        """A running process with pipes, for tests that send signals."""
        return subprocess.Popen([self.path, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def generate(self, model, output, *arguments, check=True, leave_out=(), **options):
        """A short picture: what is not given or in `leave_out` is set small. `check`: must succeed."""
        given = {str(argument).partition("=")[0] for argument in arguments} | set(leave_out)
        small = {"--prompt": "a red house", "--steps": "2", "--seed": "1", "--threads": "2", "--width": "64",
                 "--height": "64"}
        filled = [part for key, value in small.items() if key not in given for part in (key, value)]
        done = self("generate", "--model", model, "--output", output, *filled, *arguments, **options)
        if check:
            assert done.returncode == 0, f"asdm generate failed ({done.returncode}):\n{done.stderr[-3000:]}"
            assert Path(output).exists()
        return done


@pytest.fixture(scope="session")
def asdm(build_dir):
    return Tool(build_dir / "asdm")


@pytest.fixture(scope="session")
def stages(build_dir, tmp_path_factory):
    """stages(model, device, dtype, {name: array}) -> {name: array}: single parts of a model (tests/support/stages.c)."""
    program = build_dir / "tests" / "stages"
    if not program.exists():
        pytest.fail(f"{program} is missing", pytrace=False)
    folder = tmp_path_factory.mktemp("stages")

    def call(model, device, dtype, tensors, timeout=600):
        source, result = folder / "in.safetensors", folder / "out.safetensors"
        tensorfile.write(source, tensors)
        result.unlink(missing_ok=True)
        command = [program, model, device, dtype, source, result]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
        check_ending(done, command)
        assert done.returncode == 0, f"stages failed ({done.returncode}):\n{done.stderr[-3000:]}"
        return tensorfile.read(result)

    return call


@pytest.fixture
def model_copy(tmp_path):
    """model_copy(model, replace=("unet/config.json", ...)): a directory of links to `model` in which the files named in
    `replace` are copies that a test may damage."""

    def make(model, replace=(), name="model"):
        directory = tmp_path / name
        for path in Path(model).rglob("*"):
            # rglob does not follow links to directories, which the zoo's variants are made of
            for source in path.rglob("*") if path.is_symlink() and path.is_dir() else [path]:
                if source.is_dir():
                    continue
                relative = source.relative_to(model)
                target = directory / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if str(relative) in replace:
                    shutil.copyfile(source, target)
                    os.chmod(target, 0o644)
                else:
                    target.symlink_to(source.resolve())
        return directory

    return make
