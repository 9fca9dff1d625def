"""Published Darknet networks with random weights: what detpress makes of them beside OpenCV's reader of such files.

    python benchmarks/darknet.py FOLDER [NAME ...] [--gain 2] [--rows darknet.jsonl] [--json]
    python benchmarks/darknet.py darknet/cfg yolov4-tiny.cfg yolov7-tiny.cfg

Of every .cfg file of the folder, or of those named: its parameters, counted here and in detpress; the raw maps of one
random image, computed by OpenCV and by detpress; and whether the weights file comes back byte for byte. Needs OpenCV
below 5, which reads Darknet's files: `pip install detpress[darknet]`. The largest networks take minutes and 10 GB.

The random weights give each normalised layer `--gain` times the variance that it takes, 2 by default, of which
activations leave about a half. Of hundreds of layers with shortcuts the maps then grow to 1e10, and a logistic in the
middle turns rounding into 0 or 1: such a network wants a gain of 1.

Each row is added to the file --rows as soon as it is known; a network that has one there is not tried again.

OpenCV passes over `dilation`, and refuses a `num` that is not the number of anchors; what it is given has no dilation
then, in detpress neither, and the right `num`. Exits with 1 where parameters, maps (by 1e-3 of their largest value) or
bytes are not the same.
"""

import argparse
import filecmp
import json
import math
import re
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detpress.detector.darknet import WeightsHeader, kept_options, read_model, write_model
from detpress.errors import InputError
from detpress.measure.size import parameter_count

LARGEST_DIFFERENCE = 1e-3  # of maps, as a share of 1 and their largest value
Sections = list[tuple[str, dict[str, str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of .cfg files")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them (default all)")
    parser.add_argument(
        "--rows", type=Path, default=Path("darknet.jsonl"), help="finished rows (default darknet.jsonl)"
    )
    parser.add_argument("--gain", type=float, default=2.0, help="of random layers, in variance (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    names = options.names or sorted(path.name for path in options.folder.glob("*.cfg"))
    lines = options.rows.read_text().splitlines() if options.rows.exists() else []
    finished = {row["cfg"]: row for row in map(json.loads, lines)}
    for name in names:
        if name not in finished:
            print(name, file=sys.stderr)
            finished[name] = one_row(options.folder / name, options.gain)
            with options.rows.open("a") as file:
                file.write(json.dumps(finished[name]) + "\n")
    rows = [finished[name] for name in names]
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    sys.exit(not all(row["fine"] for row in rows))


def one_row(cfg: Path, gain: float) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        row = compared(cfg, Path(folder), gain)
    return {"cfg": cfg.name, **row, "seconds": round(time.perf_counter() - start)}


def compared(cfg: Path, folder: Path, gain: float) -> dict[str, Any]:
    sections = read_sections(cfg)
    classes = [f"class{i}" for i in range(next(int(said["classes"]) for kind, said in sections if kind == "yolo"))]
    weights, again = folder / "random.weights", folder / "again.weights"
    try:
        parameters = write_random_weights(weights, sections, gain)
        model = read_model(cfg, weights, classes)
    except InputError as error:
        return {"remark": f"refused: {str(error).partition('] ')[2]}", "fine": True}
    found = parameter_count(model.network)
    write_model(model.network, folder / "again.cfg", again, WeightsHeader.of(model), kept_options(model))
    same = filecmp.cmp(weights, again, shallow=False)
    again.unlink()
    row = {"parameters": found, "bytes": same, "fine": same and found == parameters}
    common, changed = for_opencv(cfg.read_text(encoding="latin-1"))
    remark = ", ".join(filter(None, [changed, "" if gain == 2 else f"gain {gain:g}"]))
    (folder / "common.cfg").write_text(common)
    try:
        theirs = opencv_maps(folder / "common.cfg", weights, sections)
    except cv2.error as error:
        return {**row, "remark": f"OpenCV does not read it: {str(error.err)[:60].strip()}"}
    if changed:
        model = read_model(folder / "common.cfg", weights, classes)
    with torch.inference_mode():
        ours = [raw.numpy() for raw in model.network.eval()(torch.from_numpy(random_image(sections)))]
    shapes = [raw.shape for raw in ours]
    if shapes != [raw.shape for raw in theirs]:
        return {**row, "fine": False, "remark": f"maps {shapes}, OpenCV's {[raw.shape for raw in theirs]}"}
    differences = [np.abs(a - b).max() / (1 + np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)]
    largest = float(np.max(differences))
    fine = row["fine"] and largest <= LARGEST_DIFFERENCE
    return {**row, "maps": len(ours), "difference": largest, "fine": fine, "remark": remark}


def read_sections(cfg: Path) -> Sections:
    """Each section's kind and options, read apart from detpress."""
    sections: Sections = []
    for line in cfg.read_text(encoding="latin-1").splitlines():
        text = re.sub(r"\s", "", line.partition("#")[0])
        if text.startswith("["):
            sections.append((text.strip("[]"), {}))
        elif "=" in text and not text.startswith(";"):
            name, _, value = text.partition("=")
            sections[-1][1].setdefault(name, value)
    return sections


def write_random_weights(path: Path, sections: Sections, gain: float) -> int:
    """A weights file that keeps maps within bounds; how many parameters it has, running statistics not counted."""
    generator = np.random.default_rng(0)
    channels: list[int] = []
    parameters = 0
    with path.open("wb") as file:
        file.write(struct.pack("<3iQ", 0, 2, 5, 0))
        for i, (kind, said) in enumerate(sections[1:]):
            before = channels[-1] if i else 3
            channels.append(channels_of(kind, said, channels))
            if kind != "convolutional":
                continue
            filters, norm = channels[-1], said.get("batch_normalize", "0") == "1"
            incoming = before // int(said.get("groups", 1)) * int(said.get("size", 1)) ** 2
            scale = math.sqrt((gain if norm else 1) / incoming)
            numbers = [generator.normal(0, 0.1, filters)]
            if norm:
                statistics = [generator.normal(0, 0.1, filters), generator.uniform(0.8, 1.2, filters)]
                numbers += [generator.uniform(0.8, 1.2, filters), *statistics]
            numbers.append(generator.normal(0, scale, filters * incoming))
            file.writelines(part.astype("<f4").tobytes() for part in numbers)
            parameters += filters * (incoming + (2 if norm else 1))
    return parameters


def channels_of(kind: str, said: dict[str, str], channels: Sequence[int]) -> int:
    """Of the map that a layer gives, after layers that gave `channels`."""
    before = channels[-1] if channels else 3
    if kind == "convolutional":
        return int(said["filters"])
    if kind == "route":
        return sum(channels[int(source)] // int(said.get("groups", 1)) for source in said["layers"].split(","))
    if kind in ("sam", "scale_channels"):
        return channels[int(said["from"])]
    return before * int(said.get("stride", 2)) ** 2 if kind == "reorg3d" else before


def for_opencv(text: str) -> tuple[str, str]:
    """What OpenCV understands as detpress does, and what was changed to that end."""
    remarks = ["without dilation"] if re.search(r"^\s*dilation\s*=", text, re.MULTILINE) else []
    text = re.sub(r"^\s*dilation\s*=.*$", "", text, flags=re.MULTILINE)
    parts = re.split(r"(?m)^(?=\s*\[)", text)
    for i, part in enumerate(parts):
        anchors = re.search(r"^\s*anchors\s*=(.*)$", part, re.MULTILINE)
        if anchors:
            count = len([number for number in anchors[1].split(",") if number.strip()]) // 2
            parts[i] = re.sub(r"(?m)^\s*num\s*=.*$", f"num={count}", part)
            if re.sub(r"\s", "", parts[i]) != re.sub(r"\s", "", part) and "num corrected" not in remarks:
                remarks.append("num corrected")
    return "".join(parts), ", ".join(remarks)


def random_image(sections: Sections) -> np.ndarray:
    """float32 (1, 3, height, width) in [0, 1]."""
    height, width = (int(sections[0][1][side]) for side in ("height", "width"))
    return np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)


def opencv_maps(cfg: Path, weights: Path, sections: Sections) -> list[np.ndarray]:
    """What OpenCV computes just before each [yolo], and before the logistic that one with new_coords takes."""
    cv2.setNumThreads(torch.get_num_threads())
    network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    network.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    network.setInput(random_image(sections))
    heads = [i for i, (kind, _) in enumerate(sections[1:]) if kind == "yolo"]
    return list(network.forward([f"conv_{i - 1}" for i in heads]))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | parameters | maps | largest difference | bytes back | seconds | |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    for row in rows:
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        back = {True: "yes", False: "NO", None: ""}[row.get("bytes")]
        remark = row["remark"] if row["fine"] else f"NOT THE SAME {row['remark']}"
        cells = [row["cfg"], parameters, str(row.get("maps", "")), difference, back, str(row["seconds"]), remark]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
