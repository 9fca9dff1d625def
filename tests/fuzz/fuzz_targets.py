"""What detpress reads from files and arguments, spoilt in its fields, values and structure, not in its bytes.

A target is plain data (dicts, lists, values) and a function that writes such data as a file and has detpress read it.
Mutation number n of a target is the same every time; it ends in success or in a DetpressError.
"""

import copy
import hashlib
import json
import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
import yaml
from PIL import Image

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.checkpoint import read_checkpoint
from detpress.detector.darknet_cfg import read_cfg, write_cfg
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import DetpressError
from detpress.recipe.file import read_recipe
from detpress.report.source import read_source
from detpress.voc.annotation import read_annotation
from detpress.voc.devkit import open_devkit
from detpress.voc.named import open_data
from detpress.voc.results import read_results

LONGEST_LINE = 1000  # characters
LARGEST_TENSOR = 10**6  # numbers
LONGEST = 20  # seconds that a mutation may take, on a busy machine

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 32, 1000, 2**16, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), "", " ", "x", "0", "-1", "1e400", "nan", "yes", "null", "x" * 300, "9" * 5000, "\0",
    "a\nb", "a=b", "../x", "/", "~", "人", "\ud800", "<x>", "]]>", "&amp;", "[", "#", "%2F", [], {}, [[]], {"x": 1},
)  # fmt: skip
RECIPE = """\
name: small
seed: 1
data: {root: digits, classes: [one, two], train: train, val: val, test: test}
model: {arch: yolov3-tiny, width: 0.0625, image_size: 64, resize: letterbox, anchors: kmeans}
chain:
  - train.scratch: {epochs: 2, batch_size: 4, augmentation: {hue: 0.5}}
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup
  - inc.static_int8: {calibration_images: 4}
measure: {protocol: voc07, runtimes: [torch], batch: 1, threads: 1, max_map_loss: 0.1}
"""


class StillAtWorkError(BaseException):
    """The time of a mutation is over; no OSError or Exception, which a reader could take for a mistake in a file."""


@dataclass(frozen=True)
class Target:
    """read: writes spoilt data of the shape of `data` into a folder and reads it again."""

    name: str
    data: Any
    read: Callable[[Any, Path], object]


def targets(folder: Path) -> list[Target]:
    """All of them; `folder` gets what the spoilt files belong to: a bundle, a data set, a study."""
    save_bundle(
        new_model(build_architecture("yolov3-tiny", ["one", "two"], 64, width=0.0625), seed=0), folder / "bundle"
    )
    model = json.loads((folder / "bundle/model.json").read_text())
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / "digits" / part).mkdir(parents=True)
    images = ["000001", "000002", "a b"]
    for image in images:
        (folder / f"digits/Annotations/{image}.xml").write_text(_xml(ANNOTATION))
    (folder / "digits/ImageSets/Main/test.txt").write_text("".join(f"{image}\n" for image in images))
    (folder / "results").mkdir()
    (folder / "study").mkdir()
    (folder / "study/a.yaml").write_text(RECIPE)
    for picture in ("coco/test/a.png", "yolo/images/test/a.png"):
        (folder / picture).parent.mkdir(parents=True)
        Image.new("L", (100, 80)).save(folder / picture)
    (folder / "coco/annotations").mkdir()
    (folder / "yolo/labels/test").mkdir(parents=True)
    rows = [[image, 0.5, 1.0, 2.0, 30.0, 40.5] for image in images]
    return [
        Target("recipe", yaml.safe_load(RECIPE), _read_recipe),
        Target("--set", {"path": ["chain", 1, "nni.l1norm", "sparsity"], "value": 0.5}, _read_set),
        Target("model.json", model, _read_bundle),
        Target("Darknet cfg", _sections(), _read_cfg),
        Target("annotation", ANNOTATION, _read_annotation),
        Target("image set", [[image, 1] for image in images], _read_image_set),
        Target("results file", rows, _read_results),
        Target("study.json", _study(folder), _read_study),
        Target("COCO JSON", COCO, _read_coco),
        Target("YOLO", {"data.yaml": {"names": ["one", "two"], "test": "images/test"}, "text": YOLO}, _read_yolo),
        Target("checkpoint", {"epoch": 1, "model": _shapes()}, _read_checkpoint),
    ]


def try_mutation(target: Target, folder: Path, seed: int, number: int) -> bool:
    """Whether the mutation was accepted, not refused. Raises what else came of it, StillAtWorkError where nothing."""
    generator = random.Random(f"{target.name} {seed} {number}")
    data = copy.deepcopy(target.data)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        data = mutated(data, generator)
    with _limited():
        try:
            target.read(data, folder)
        except DetpressError as error:
            _check_message(str(error), folder)
            return False
    return True


def _check_message(message: str, folder: Path) -> None:
    """A recipe's mistakes are told all at once, a line each; every line names its place and is no page."""
    lines = message.split("\n")
    assert len(lines) == 1 or all(line.startswith((str(folder), "--set ")) for line in lines), message
    assert max(map(len, lines)) < LONGEST_LINE, message


def mutated(data: Any, generator: random.Random) -> Any:
    """`data`, one place in it changed; may change what it is given."""
    holders = [holder for holder in _holders(data) if holder]
    if not holders or generator.random() < 0.01:
        return generator.choice(ODD_VALUES)
    holder = generator.choice(holders)
    key = generator.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match generator.randrange(8):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [holder[key]]
        case 2:
            holder[key] = copy.deepcopy(generator.choice(holders))
        case 3 if isinstance(holder, list):
            holder.insert(generator.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        case 3:
            holder[f"{key}{generator.choice(['s', '_', '.', ' '])}"] = holder.pop(key)
        case 4 if isinstance(holder, dict):
            holder[str(generator.choice(ODD_VALUES))] = generator.choice(ODD_VALUES)
        case 5 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * generator.choice([-1, 0, 2, 0.5, 1000, 10**9])
        case _:
            holder[key] = copy.deepcopy(generator.choice(ODD_VALUES))
    return data


def _holders(data: Any) -> Iterator[Any]:
    """Every dict and list in the data."""
    if isinstance(data, dict | list):
        yield data
        for value in data.values() if isinstance(data, dict) else data:
            yield from _holders(value)


@contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise StillAtWorkError(f"still at work after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def _read_recipe(data: Any, folder: Path) -> None:
    read_recipe(_write(folder / "small.yaml", yaml.safe_dump(data, sort_keys=False)))


def _read_set(data: Any, folder: Path) -> None:
    path, value = (data.get("path"), data.get("value")) if isinstance(data, dict) else (data, data)
    parts = path if isinstance(path, list) else [path]
    spelled = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    read_recipe(_write(folder / "small.yaml", RECIPE), [f"{spelled.removeprefix('.')}={value}"])


def _read_bundle(data: Any, folder: Path) -> None:
    bundle = folder / "bundle"
    (bundle / "model.json").write_text(json.dumps(data))
    names = ("model.json", "weights.safetensors")
    sums = [f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (bundle / "SHA256SUMS").write_text("".join(sums))
    load_bundle(bundle)


def _sections() -> list[dict[str, Any]]:
    sections: list[dict[str, Any]] = []
    for line in write_cfg(build_architecture("yolov3-tiny", ["one", "two"], 64, width=0.0625)).splitlines():
        name, _, value = line.partition("=")
        if line.startswith("["):
            sections.append({"section": line[1:-1]})
        elif line:
            sections[-1][name] = int(value) if value.isdigit() else value
    return sections


def _read_cfg(data: Any, folder: Path) -> None:
    lines = []
    for section in data if isinstance(data, list) else [data]:
        options = section.items() if isinstance(section, dict) else [("section", section)]
        lines += [f"[{value}]" if name == "section" else f"{name}={value}" for name, value in options]
    read_cfg(_write(folder / "small.cfg", "\n".join(lines)))


ANNOTATION: dict[str, Any] = {
    "annotation": [
        {"filename": "000001.jpg"},
        {"size": [{"width": 100}, {"height": 80}, {"depth": 3}]},
        *(
            {
                "object": [
                    {"name": name},
                    {"difficult": 0},
                    {"bndbox": [{"xmin": 1}, {"ymin": 2.5}, {"xmax": 30}, {"ymax": 40}]},
                ]
            }
            for name in ("one", "two")
        ),
    ]
}


def _xml(data: Any) -> str:
    """A dict's keys are tags; text is escaped but for some that is markup already."""
    if isinstance(data, dict):
        return "".join(f"<{tag}>{_xml(inner)}</{tag}>\n" for tag, inner in data.items())
    if isinstance(data, list):
        return "".join(map(_xml, data))
    return str(data) if data in ("<x>", "&amp;", "]]>") else escape(str(data))


def _read_annotation(data: Any, folder: Path) -> None:
    read_annotation(_write(folder / "000001.xml", _xml(data)))


def _table(data: Any) -> str:
    rows = data if isinstance(data, list) else [data]
    return "".join(f"{' '.join(map(str, row)) if isinstance(row, list) else row}\n" for row in rows)


def _read_image_set(data: Any, folder: Path) -> None:
    _write(folder / "digits/ImageSets/Main/val.txt", _table(data))
    devkit = open_devkit(folder / "digits", ["one", "two"])
    with suppress(DetpressError):
        devkit.fingerprint(["val"])
    assert devkit.classes
    assert "test" in devkit.image_set_names
    devkit.image_set("val")


def _read_results(data: Any, folder: Path) -> None:
    _write(folder / "results/comp4_det_test_one.txt", _table(data))
    read_results(folder / "results", "test", ["one", "two"])


def _study(folder: Path) -> dict[str, Any]:
    stage = {
        "index": 0, "plugin": "model", "form": "dense", "key": "ab", "reused": False, "seconds": 1.5, "notes": [],
        "metrics": {"map": 0.5}, "bundle": "runs/a/0-model/bundle",
    }  # fmt: skip
    root = str(folder / "digits")
    job = {
        "name": "a", "row": "a", "status": "done", "reason": None, "log": None, "recipe_file": "a.yaml",
        "recipe": {"data": {"root": root}, "measure": {"protocol": "voc07", "runtimes": ["torch"]}}, "stages": [stage],
    }  # fmt: skip
    failed = {"name": "b", "row": "b", "status": "failed", "reason": "broke", "log": "b.log"}
    return {"rows": [{"name": "a"}], "jobs": [job, failed], "test_set": {"root": root, "classes": None, "name": "test"}}


def _read_study(data: Any, folder: Path) -> None:
    _write(folder / "study/study.json", json.dumps(data))
    read_source(folder / "study")


COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10.5, 20, 30], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 4, "bbox": [1, 2, 3, 4], "attributes": {"difficult": True}},
    ],
    "categories": [{"id": 3, "name": "one"}, {"id": 4, "name": "two"}],
}
YOLO = [[0, 0.5, 0.5, 0.25, 0.125], [1, 0.25, 0.25, 0.1, 0.1]]


def _read_layout(root: Path) -> None:
    data = open_data(str(root))
    assert data.classes
    data.image_set("test")
    data.fingerprint(["test"])


def _read_coco(data: Any, folder: Path) -> None:
    _write(folder / "coco/annotations/instances_test.json", json.dumps(data))
    _read_layout(folder / "coco")


def _read_yolo(data: Any, folder: Path) -> None:
    described, text = (data.get("data.yaml"), data.get("text")) if isinstance(data, dict) else (data, data)
    _write(folder / "yolo/data.yaml", yaml.safe_dump(described))
    _write(folder / "yolo/labels/test/a.txt", _table(text))
    _read_layout(folder / "yolo")


def _small() -> Architecture:
    return build_architecture("yolov3-tiny", ["one", "two"], 64, width=0.0625)


def _shapes() -> dict[str, Any]:
    state = new_model(_small(), seed=0).network.state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items() if "num_batches" not in name}


def _read_checkpoint(data: Any, folder: Path) -> None:
    """Lists of whole numbers are the shapes of tensors."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(inner) for name, inner in value.items()}
        if isinstance(value, list) and all(type(side) is int and 0 <= side <= LARGEST_TENSOR for side in value):
            return torch.ones(value) if math.prod(value) <= LARGEST_TENSOR else None
        return value

    torch.save(tensors(data), folder / "small.pt")
    read_checkpoint(folder / "small.pt", _small())


def count_outcomes(target: Target, folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Of the first `count` mutations: how many were accepted and refused, the faults by number, and the slowest."""
    outcomes: dict[str, Any] = {"target": target.name, "mutations": count, "accepted": 0, "refused": 0, "faults": {}}
    slowest = 0.0
    for number in range(count):
        start = time.perf_counter()
        try:
            outcomes["accepted" if try_mutation(target, folder, seed, number) else "refused"] += 1
        except (Exception, StillAtWorkError) as error:
            outcomes["faults"][number] = f"{type(error).__name__}: {error}"
        slowest = max(slowest, time.perf_counter() - start)
    return {**outcomes, "slowest_seconds": round(slowest, 2)}
