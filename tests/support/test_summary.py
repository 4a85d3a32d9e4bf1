"""The sum must never hide a failure."""

import json
import subprocess
import sys
from pathlib import Path

import summary

CMOCKA = """[==========] tests: Running 3 test(s).
[ RUN      ] one
[       OK ] one
[ RUN      ] two
{two}
[ RUN      ] three
[       OK ] three
[==========] tests: 3 test(s) run.
"""


def meson(result, stdout, stderr=""):
    return {"name": "p", "result": result, "stdout": stdout, "stderr": stderr}


def figures(entry):
    counts = summary.count_program(entry)
    return counts.passed, counts.failed, counts.skipped


def test_cmocka_cases_are_counted():
    assert figures(meson("OK", CMOCKA.format(two="[       OK ] two"))) == (3, 0, 0)
    failed = CMOCKA.format(two="[  FAILED  ] two") + "[  PASSED  ] 2 test(s).\n[  FAILED  ] tests: 1 test(s), listed below:\n" \
        "[  FAILED  ] two\n"
    assert figures(meson("FAIL", failed)) == (2, 1, 0)
    skipped = CMOCKA.format(two="[  SKIPPED ] two") + "[  PASSED  ] 2 test(s).\n[  SKIPPED ] tests: 1 test(s), listed below:\n" \
        "[  SKIPPED ] two\n"
    assert figures(meson("OK", skipped)) == (2, 0, 1)
    assert figures(meson("OK", CMOCKA.format(two="[  SKIPPED ] two"))) == (2, 0, 1)


def test_a_crash_in_the_middle_fails():
    assert figures(meson("FAIL", "[ RUN      ] one\n[       OK ] one\n[ RUN      ] two\n")) == (1, 1, 0)


def test_a_leak_at_the_end_fails():
    assert figures(meson("FAIL", CMOCKA.format(two="[       OK ] two"), "LeakSanitizer")) == (3, 1, 0)


def test_programs_without_cases():
    assert figures(meson("OK", "")) == (1, 0, 0)
    assert figures(meson("TIMEOUT", "")) == (0, 1, 0)
    assert figures(meson("SKIP", "")) == (0, 0, 1)
    assert figures(meson("ERROR", "")) == (0, 1, 0)


def test_tap():
    text = "1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no device\n"
    assert figures(meson("FAIL", text)) == (1, 1, 1)


def run(directory):
    done = subprocess.run([sys.executable, Path(summary.__file__), directory], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()[-1]


def write(directory, **files):
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (directory / f"{stem}.{suffix}").write_text(text)


def test_the_last_line(tmp_path):
    write(tmp_path, c_status="0", c_jsonl=json.dumps(meson("OK", "")) + "\n", build_status="0", fuzz_status="0",
          fuzz_counts="4 0 1")
    assert run(tmp_path) == (0, "6 passed, 0 failed, 1 skipped")


def test_parts_that_break(tmp_path):
    assert run(tmp_path)[0] == 1  # nothing at all
    write(tmp_path, build_status="0")
    assert run(tmp_path) == (0, "1 passed, 0 failed")
    write(tmp_path, pytest_status="3")
    assert run(tmp_path) == (1, "1 passed, 1 failed")
    write(tmp_path, pytest_status="", pytest_xml="<testsuites><testsuite tests='5' failures='0' errors='0' skipped='1'/>")
    assert run(tmp_path) == (1, "1 passed, 1 failed")
    write(tmp_path, pytest_status="1",
          pytest_xml="<testsuites><testsuite tests='5' failures='1' errors='1' skipped='1'/></testsuites>")
    assert run(tmp_path) == (1, "3 passed, 2 failed, 1 skipped")
