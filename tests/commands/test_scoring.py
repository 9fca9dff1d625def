"""Pictures as people have them, scored and searched: one broken among many, and how many objects one may hold."""

import json
import os
from pathlib import Path

import pytest
from command_line import Command


@pytest.fixture
def pictures(workplace: Path) -> list[Path]:
    """Three pictures, the last of them cut short."""
    found = []
    for source in sorted((workplace / "digits/JPEGImages").glob("*.jpg"))[:3]:
        found.append(workplace / source.name)
        found[-1].write_bytes(source.read_bytes())
    found[-1].write_bytes(found[-1].read_bytes()[:900])
    return found


def test_one_broken_picture_of_many_is_named_and_the_others_are_done(
    detpress: Command, bundle: Path, pictures: list[Path], workplace: Path
) -> None:
    said = detpress("detect", bundle, *pictures)
    assert said.code == 1
    assert f"{pictures[-1]}: cannot be read as an image" in said.err
    found = json.loads((workplace / "detections/boxes.json").read_text())
    assert [entry["image"] for entry in found] == [str(path) for path in pictures[:-1]]


def test_detect_tells_how_far_it_is(
    detpress: Command, bundle: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detpress.run.terminal.PLAIN_SECONDS", -1.0)
    said = detpress("detect", bundle, *pictures)
    assert "  images read: 3 of 3\n" in said.err
    assert "  images scored: 2 of 2\n" in said.err


def test_detect_takes_a_folder_and_replaces_nothing_that_is_there(
    detpress: Command, bundle: Path, workplace: Path
) -> None:
    (workplace / "photos/day").mkdir(parents=True)
    for source in sorted((workplace / "digits/JPEGImages").glob("*.jpg"))[:2]:
        (workplace / "photos/day" / source.name).write_bytes(source.read_bytes())
    said = detpress("detect", bundle, "photos", "--out", "found", "--json")
    assert [entry["image"] for entry in said.json] == [f"photos/day/{name}.jpg" for name in ("000001", "000002")]
    before = (workplace / "found/boxes.json").read_bytes()
    said = detpress("detect", bundle, "digits/JPEGImages/000003.jpg", "--out", "found")
    assert (said.code, said.err) == (
        2,
        "detpress: found/boxes.json: exists already; expected another folder (--out DIR)\n",
    )
    assert (workplace / "found/boxes.json").read_bytes() == before
    (workplace / "photos/day/000001.jpg").rename(workplace / "a.jpg")
    (workplace / "a.png").write_bytes(b"mine")
    assert "a.png: exists already" in detpress("detect", bundle, "a.jpg", "--out", ".").err
    (workplace / "empty").mkdir()
    assert "empty: no pictures in this folder" in detpress("detect", bundle, "empty").err
    assert "empty: no pictures in this folder" in detpress("detect", bundle, "a.jpg", "empty").err
    said = detpress("detect", bundle, "b.jpg", "a.jpg", "a.png")
    assert said.err.startswith("detpress: a.jpg and a.png have the same name, and so would their pictures; give them ")


def test_an_option_that_would_be_passed_over_is_refused(detpress: Command, bundle: Path, workplace: Path) -> None:
    Path("results").mkdir()
    for option in (("--runtime", "torch"), ("--max-detections", "5")):
        said = detpress("evaluate", "--data", "digits", "--results", "results", *option)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "--runtime and --max-detections are for a BUNDLE" in said.err
    said = detpress("model", str(bundle), "--image-size", "320")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "are for an architecture" in said.err
    assert detpress("model", "yolov3-tiny", "--image-size", "0").code == 2


def test_how_many_objects_an_image_may_hold_is_an_option_and_its_reach_is_said(
    detpress: Command, bundle: Path, workplace: Path
) -> None:
    said = detpress("evaluate", bundle, "--data", "digits", "--max-detections", "3")
    assert "4 images hold 3 detections, the most that are kept: see --max-detections" in said.out
    assert "scored in torch" in said.out
    said = detpress("evaluate", bundle, "--data", "digits", "--json")
    assert json.loads(said.out)["runtime"] == "torch"


def test_a_search_for_objects_that_is_stopped_leaves_nothing_and_can_be_done_again(
    detpress: Command, bundle: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sorted((workplace / "digits/JPEGImages").glob("*.jpg"))[0]
    odd = Path(os.fsdecode(b"caf\xe9.jpg"))  # no UTF-8
    (workplace / odd).write_bytes(source.read_bytes())

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("detpress.report.pictures.draw_boxes", stopped)
        assert detpress("detect", bundle, source, odd).code == 2
    assert list((workplace / "detections").iterdir()) == []
    said = detpress("detect", bundle, source, odd, "--json")
    assert said.code == 0, said.err
    kept = json.loads((workplace / "detections/boxes.json").read_text())
    assert [os.fsencode(entry["image"]) for entry in kept] == [os.fsencode(source), b"caf\xe9.jpg"]
