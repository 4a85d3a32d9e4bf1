"""Dependencies run one way, vendor headers stay with their owner, and files stay readable in size."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINE = ROOT / "engine"

# What each folder of the engine may include, beside itself and <asdm/...>.
MAY = {
    "base": set(),
    "tensor": {"base"},
    "text": {"base"},
    "sampler": {"base"},
    "ops": {"base", "tensor", "sampler"},
    "ref": {"base", "tensor", "sampler", "ops"},
    "cpu": {"base", "tensor", "sampler", "ops"},
    "cuda": {"base", "tensor", "sampler", "ops"},
    "model": {"base", "tensor", "ops", "sampler"},
    "run": {"base", "tensor", "ops", "sampler", "text", "model"},
    "light": {"base", "tensor", "ops", "sampler", "text", "model", "run"},
}
# What each folder of the front may include of the front, beside itself and the files of server/front: a request's way is
# http -> dialect -> job -> link. The worker knows nothing of the front, the front nothing of the worker.
FRONT_MAY = {
    "http": set(),
    "link": set(),
    "job": {"link"},
    "dialect": {"http", "job"},
    "page": {"http"},
}
REGISTRY = ENGINE / "ops" / "registry.c"  # the only file that knows the back ends
VENDORS = {"cjson/cJSON.h": "base/json.c", "cJSON.h": "base/json.c", "png.h": "base/png.c", "zlib.h": "base/png_strips.c",
           "utf8proc.h": "text/unicode.c",
           "oneapi/dnnl/dnnl.hpp": "cpu/onednn.cpp", "omp.h": "cpu",
           "cuda_runtime_api.h": "cuda", "cublasLt.h": "cuda/cublaslt.c", "cudnn.h": "cuda/cudnn.c"}
FRONT_VENDORS = {"microhttpd.h": {"http"}, "systemd/sd-daemon.h": {"notify.c"},
                 "gnutls/gnutls.h": {"keys.c", "job/fingerprint.c"},
                 "gnutls/crypto.h": {"keys.c", "job/fingerprint.c"}}

SOURCES = sorted(p for folder in ("engine", "server", "include", "tests") for p in (ROOT / folder).rglob("*")
                 if p.suffix in {".c", ".h", ".cpp", ".cu", ".py"})


def includes(path):
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.M)


@pytest.mark.parametrize("folder", sorted(MAY))
def test_engine_folders(folder):
    for path in sorted((ENGINE / folder).rglob("*.[ch]*")):
        for name in includes(path):
            top = name.split("/")[0]
            if top in MAY and path != REGISTRY:
                assert top == folder or top in MAY[folder], f"{path.relative_to(ROOT)} includes {name}"


def test_every_engine_folder_is_listed():
    assert {p.name for p in ENGINE.iterdir() if p.is_dir()} == set(MAY)


def test_programs_use_the_public_interface():
    for path in (ROOT / "server").rglob("*.[ch]"):
        for name in includes(path):
            assert name.split("/")[0] not in MAY, f"{path.relative_to(ROOT)} includes {name}"


def test_public_headers_stand_alone():
    for path in (ROOT / "include").rglob("*.h"):
        for name in includes(path):
            assert name.startswith("asdm/") or "/" not in name, f"{path.relative_to(ROOT)} includes {name}"


def test_vendor_headers_have_one_owner():
    seen = set()
    for path in ENGINE.rglob("*.[ch]*"):
        for name in includes(path):
            if name in VENDORS:
                seen.add(VENDORS[name])
                owner = ENGINE / VENDORS[name]
                assert owner in (path, path.parent), f"{path.relative_to(ROOT)} includes {name}"
    assert seen == set(VENDORS.values())


def test_front_folders():
    front = ROOT / "server" / "front"
    assert {p.name for p in front.iterdir() if p.is_dir()} == set(FRONT_MAY)
    for path in sorted(front.rglob("*.[ch]")):
        folder = path.relative_to(front).parts[0]
        for name in includes(path):
            parts = name.split("/")
            assert parts[0] != "worker", f"{path.relative_to(ROOT)} includes {name}"
            if folder in FRONT_MAY and parts[0] == "front" and len(parts) > 2:
                assert parts[1] == folder or parts[1] in FRONT_MAY[folder], f"{path.relative_to(ROOT)} includes {name}"
            if name in FRONT_VENDORS:
                assert {folder, str(path.relative_to(front))} & FRONT_VENDORS[name], f"{path.relative_to(ROOT)}: {name}"


def test_worker_and_wire_know_no_front():
    for folder in ("worker", "wire"):
        for path in sorted((ROOT / "server" / folder).rglob("*.[ch]")):
            for name in includes(path):
                assert not name.startswith("front/"), f"{path.relative_to(ROOT)} includes {name}"
                assert folder != "wire" or not name.startswith("worker/"), f"{path.relative_to(ROOT)} includes {name}"


def test_no_file_is_too_long():
    for path in SOURCES:
        lines = path.read_text().count("\n")
        assert lines <= 1000, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_behaviour_by_environment():
    for path in (ROOT / "server").rglob("*.c"):
        asked = re.findall(r'getenv\(([^)]*)\)', path.read_text())
        assert not asked or (path.name == "config.c" and asked == ['"ASDM_API_KEYS_FILE"']), path
    for path in ENGINE.rglob("*.[ch]*"):
        assert "getenv" not in path.read_text(), path
