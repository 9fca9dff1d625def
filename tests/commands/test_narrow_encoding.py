"""Names with letters that the terminal's encoding lacks end no command, and JSON gives them back in any."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLASSES = ["人", "čistič"]


@pytest.fixture
def workplace(workplace: Path, digits: Path) -> Path:
    """The small data set with two classes of such names, and a recipe that only measures."""
    (workplace / "digits").unlink()
    shutil.copytree(digits, workplace / "digits")
    for path in (workplace / "digits/Annotations").glob("*.xml"):
        text = path.read_text(encoding="utf-8")
        for i, name in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]):
            text = text.replace(f"<name>{name}</name>", f"<name>{CLASSES[i % 2]}</name>")
        path.write_text(text, encoding="utf-8")
    (workplace / "small.yaml").write_text(
        "name: small\ndata: {root: digits, classes: [人, čistič]}\n"
        "model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}\nchain: []\n"
        "measure: {runtimes: [], memory: false}\n",
        encoding="utf-8",
    )
    return workplace


def detpress(encoding: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-m", "detpress", *arguments], env=environment, capture_output=True)


def test_the_encoding_of_the_output_ends_no_command(workplace: Path) -> None:
    run = detpress("cp1252", "run", "small.yaml", "--out", "out", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.decode("cp1252"))["recipe"]["data"]["classes"] == CLASSES
    scored = detpress("ascii", "evaluate", "out/0-model/bundle", "--data", "digits")
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.decode("ascii").startswith("?isti?  ")
    wrong = detpress("ascii", "validate", "人.yaml")
    assert (wrong.returncode, b"Traceback" in wrong.stderr) == (2, False)
