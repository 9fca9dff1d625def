"""Names with letters that the terminal's encoding lacks end no command, and JSON gives them back in any."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from processes import begin, detpress

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


def in_encoding(encoding: str, *arguments: str) -> None:
    """The command, in a terminal of that encoding."""
    for name in ("stdout", "stderr"):
        errors = "backslashreplace" if name == "stderr" else "strict"
        setattr(sys, name, io.TextIOWrapper(getattr(sys, name).detach(), encoding=encoding, errors=errors))
    detpress(*arguments)


def test_the_encoding_of_the_output_ends_no_command(workplace: Path) -> None:
    code, _, _ = run = begin(
        workplace / "run", in_encoding, "cp1252", "run", "small.yaml", "--out", "out", "--json"
    ).end()
    assert code == 0, run
    printed = (workplace / "run/out").read_bytes()
    assert json.loads(printed.decode("cp1252"))["recipe"]["data"]["classes"] == CLASSES
    arguments = ("evaluate", "out/0-model/bundle", "--data", "digits")
    code, said, _ = scored = begin(workplace / "scored", in_encoding, "ascii", *arguments).end()
    assert code == 0, scored
    assert said.startswith("?isti?  ")
    code, _, said = begin(workplace / "wrong", in_encoding, "ascii", "validate", "人.yaml").end()
    assert (code, "Traceback" in said) == (2, False)
