"""Which sources the zoo depends on; standard library only, so that a test run can tell quickly whether it is current."""

import hashlib
import json
from pathlib import Path

SOURCES = ("make_zoo.py", "zoo_models.py", "zoo_original.py", "zoo_reference.py", "zoo_cases.py", "pictures.py")


def digest(tokenizer_directory):
    total = hashlib.sha256()
    here = Path(__file__).parent
    for path in [here / name for name in SOURCES] + sorted(Path(tokenizer_directory).iterdir()):
        total.update(path.read_bytes())
    return total.hexdigest()


def is_current(zoo, tokenizer_directory):
    path = Path(zoo) / "stamp.json"
    return path.exists() and json.loads(path.read_text()).get("stamp") == digest(tokenizer_directory)
