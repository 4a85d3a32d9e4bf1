#!/usr/bin/env python3
"""Adds up what the parts of a test run left behind; the last line is `N passed, N failed[, N skipped]`.

usage: summary.py RESULTS_DIR

RESULTS_DIR holds, per part:
    NAME.status   its exit status, a number; each part that was started has one
    NAME.jsonl    meson's testlog.json: one object per program; cmocka's lines in its output are counted one by one
    NAME.xml      pytest's JUnit file
    NAME.counts   "PASSED FAILED SKIPPED"
A part that failed, was cut off or left nothing readable counts as failed at least once, whatever else it says. Exits 1
where anything failed or nothing passed.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TAP = re.compile(r"^(not )?ok\b[^#\n]*(#\s*skip)?", re.IGNORECASE | re.MULTILINE)
NEW_CASE, OK_CASE, SKIPPED_CASE = (re.compile(rf"^\[ *{word} *\] \S+", re.MULTILINE) for word in ("RUN", "OK", "SKIPPED"))
SKIPPED_SUMMARY = re.compile(r"^\[ *SKIPPED *\] .*test\(s\)", re.MULTILINE)


class Counts:
    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def count_program(entry):
    """One program of meson's log: its cmocka or TAP cases, or 1 where it prints neither."""
    result = entry.get("result", "ERROR")
    output = (entry.get("stdout") or "") + "\n" + (entry.get("stderr") or "")
    started = len(NEW_CASE.findall(output))
    counts = Counts()
    if started:
        counts.passed = len(OK_CASE.findall(output))
        listed = len(SKIPPED_CASE.findall(output)) - len(SKIPPED_SUMMARY.findall(output))
        # a skipped case is named once when it runs and once more below the summary, where there is one
        counts.skipped = listed // 2 if SKIPPED_SUMMARY.search(output) else max(listed, 0)
        counts.failed = max(started - counts.passed - counts.skipped, 0)
    elif TAP.search(entry.get("stdout") or ""):
        for match in TAP.finditer(entry["stdout"]):
            if match[2]:
                counts.skipped += 1
            elif match[1]:
                counts.failed += 1
            else:
                counts.passed += 1
    elif result in ("OK", "EXPECTEDFAIL"):
        counts.passed = 1
    elif result == "SKIP":
        counts.skipped = 1
    if result not in ("OK", "EXPECTEDFAIL", "SKIP") and counts.failed == 0:
        counts.failed = 1
    return counts


def count_meson(path):
    counts = Counts()
    for line in path.read_text(errors="replace").splitlines():
        if line.strip():
            counts.add(count_program(json.loads(line)))
    return counts


def count_junit(path):
    root = ElementTree.parse(path).getroot()
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    counts = Counts()
    for suite in suites:
        total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        counts.add(Counts(total - failed - skipped, failed, skipped))
    return counts


def count_plain(path):
    return Counts(*map(int, path.read_text().split()))


READERS = {".jsonl": count_meson, ".xml": count_junit, ".counts": count_plain}


def count_part(status_path):
    """(counts, remark) of the part whose .status file this is."""
    counts, remark, found = Counts(), "", False
    for suffix, reader in READERS.items():
        path = status_path.with_suffix(suffix)
        if not path.exists():
            continue
        try:
            counts.add(reader(path))
            found = True
        except (ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
            counts.failed += 1
            remark = f"unreadable result: {error}"
    try:
        status = int(status_path.read_text())
    except ValueError:
        status, remark = 1, "did not finish"
    if status != 0 and counts.failed == 0:
        counts.failed = 1
        remark = remark or f"ended with status {status}"
    elif status == 0 and not found:
        counts.passed += 1  # a part that is one test, such as the build
    return counts, remark


def summarise(directory):
    total, lines = Counts(), []
    for path in sorted(directory.glob("*.status")):
        counts, remark = count_part(path)
        lines.append(f"{path.stem}: {counts}" + (f" ({remark})" if remark else ""))
        total.add(counts)
    return total, lines


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: summary.py RESULTS_DIR")
    total, lines = summarise(Path(sys.argv[1]))
    print("\n".join([*lines, str(total)]))
    sys.exit(1 if total.failed or not total.passed else 0)


if __name__ == "__main__":
    main()
