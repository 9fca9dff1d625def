"""`detpress evaluate` and `detpress detect`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detpress.commands.options import Json, no_nan, print_json

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.predict import Run
    from detpress.errors import InputError
    from detpress.progress import Progress
    from detpress.voc.devkit import Devkit

MODEL = "A bundle's folder, builtin:digits, builtin:cells-98, or an exported .onnx or OpenVINO .xml file."
RuntimeName = Annotated[
    str | None,
    typer.Option(
        help="torch, torch-compile, onnxruntime, openvino or openvino-bf16; by default torch, for int8 models openvino."
    ),
]
MaxDetections = Annotated[
    int, typer.Option(min=1, max=10_000, help="Objects an image may have; the best are kept (coco counts 100 a class).")
]


def evaluate(
    data: Annotated[str, typer.Option(metavar="ROOT", help="A data set's folder, or builtin:digits.")],
    bundle: Annotated[str | None, typer.Argument(help=MODEL)] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score comp4_det_* files of any detector instead of a bundle."),
    ] = None,
    split: Annotated[str, typer.Option(help="The image set.")] = "test",
    protocol: Annotated[str, typer.Option(help="voc07 (11 points), voc10 (area), coco, salvi2020.")] = "voc07",
    iou: Annotated[float, typer.Option(help="A detection matches above this IoU (not coco).")] = 0.5,
    max_detections: MaxDetections = 100,
    runtime: RuntimeName = None,
    as_json: Json = False,
) -> None:
    """Average precision of a model, or of the results files of any detector.

    \b
    detpress evaluate builtin:digits --data builtin:digits
    detpress evaluate runs/quickstart/4-inc.static_int8/bundle --data builtin:digits --json
    detpress evaluate --results results --data VOCdevkit/VOC2007 --protocol voc10
    """
    from detpress.errors import InputError, nearest
    from detpress.voc.evaluate import evaluate as evaluate_detections
    from detpress.voc.named import open_data
    from detpress.voc.protocol import PROTOCOLS
    from detpress.voc.results import read_results

    if (bundle is None) == (results is None):
        raise InputError("evaluate: expected either a BUNDLE or --results DIR")
    chosen = next((known for known in PROTOCOLS if known == protocol), None)
    if chosen is None:
        raise InputError(f"--protocol {protocol}: {nearest(protocol, PROTOCOLS)}")
    if not 0 < iou < 1:
        raise InputError(f"--iou {iou}: expected a number above 0 and below 1")
    if results is not None and (runtime is not None or max_detections != 100):
        raise InputError("--runtime and --max-detections are for a BUNDLE: --results are scored as they are")
    runtime_name, full = None, 0
    if results is not None:
        devkit = open_data(data)
        _check_split(devkit, split)
        detections = read_results(results, split, devkit.classes, devkit.image_set_names)
        evaluation = evaluate_detections(devkit.image_set(split), detections, chosen, iou)
    else:
        from detpress.detector.predict import full_images
        from detpress.measure.scoring import score as scored
        from detpress.measure.section import Measure
        from detpress.run.terminal import TerminalListener

        architecture, run, runtime_name = _open(str(bundle), runtime)
        with TerminalListener() as terminal:
            devkit = open_data(data, list(architecture.classes), progress=terminal.progress)
            _check_split(devkit, split)
            measure = Measure(protocol=chosen, iou=iou, max_detections=max_detections)
            evaluation, detections = scored(run, architecture, devkit, split, measure, terminal.progress)
        full = full_images(detections, max_detections)
    without = [name for name in detections if name not in (*evaluation.ap, *evaluation.left_out)]
    if as_json:
        print_json(
            {
                "protocol": evaluation.protocol,
                "map": evaluation.map,
                "ap": evaluation.ap,
                "runtime": runtime_name,
                "left_out": [*evaluation.left_out, *without],
                "max_detections": max_detections if results is None else None,
                "images_at_max_detections": full if results is None else None,
            }
        )
        return
    width = max(len(name) for name in ("mean", *evaluation.ap))
    for name, value in evaluation.ap.items():
        print(f"{name:<{width}}  {value:.4f}")
    for name in evaluation.left_out:
        print(f"{name:<{width}}  left out: all its objects are marked difficult")
    for name in without:
        print(f"{name:<{width}}  left out: the image set has no object of it")
    print(f"{'mean':<{width}}  {evaluation.map:.4f}  average precision, {evaluation.protocol}")
    if runtime_name is not None:
        print(f"scored in {runtime_name}")
    if full:
        print(f"{full} images hold {max_detections} detections, the most that are kept: see --max-detections")


def _check_split(devkit: "Devkit", split: str) -> None:
    from detpress.errors import InputError
    from detpress.voc.layout import no_such_set

    if split not in devkit.image_set_names:
        raise InputError(f"--split: {no_such_set(devkit.root, split, devkit.image_set_names)}")


def detect(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help=MODEL)],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the results; replaces nothing.")] = Path("detections"),
    score: Annotated[float, typer.Option(min=0.0, max=1.0, callback=no_nan, help="Lowest score to report.")] = 0.3,
    max_detections: MaxDetections = 100,
    runtime: RuntimeName = None,
    as_json: Json = False,
) -> None:
    """Find objects in images: pictures with boxes, and the boxes as JSON (pixels of the image, edges, 0-based).

    \b
    detpress detect builtin:cells-98 blood.jpg
    detpress detect runs/quickstart/4-inc.static_int8/bundle photos --out found --score 0.5
    """
    import json
    import tempfile

    from torchvision.transforms.v2 import functional as transforms

    from detpress.detector.boxes import Suppression
    from detpress.detector.images import read_image
    from detpress.detector.predict import predict
    from detpress.errors import InputError
    from detpress.report.fonts import choose_lettering
    from detpress.report.pictures import NOT_DRAWN, draw_boxes
    from detpress.run.terminal import TerminalListener

    architecture, run, _ = _open(bundle, runtime)
    classes, rules = architecture.classes, Suppression(most=max_detections)
    given = _pictures(images, out)
    with TerminalListener() as terminal:
        images, broken = _readable(given, terminal.progress)
    if not images:
        raise broken[0]
    lettering = choose_lettering(classes)
    if lettering.numbered:
        print(lettering.legend(), file=sys.stderr)
    found = []
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as drawn,  # what is stopped leaves nothing
        TerminalListener() as terminal,
    ):
        detected = predict(run, architecture, images, terminal.progress, rules=rules)
        for path, detections in zip(images, detected, strict=True):
            kept = detections.scores >= score
            if int(kept.sum()) == max_detections:
                what = f"only the best {max_detections} objects are kept: see --max-detections"
                print(f"{path}: {what}", file=sys.stderr)
            names = [classes[label] for label in detections.labels[kept]]
            scores = detections.scores[kept].tolist()
            boxes = detections.boxes[kept]
            found.append(
                {
                    "image": str(path),
                    "objects": [
                        {"class": name, "score": value, "box": box}
                        for name, value, box in zip(names, scores, boxes.tolist(), strict=True)
                    ],
                }
            )
            labels = [f"{lettering.shown[name]} {value:.2f}" for name, value in zip(names, scores, strict=True)]
            try:
                picture = draw_boxes(read_image(path), boxes, names, classes, labels=labels, font=lettering.font)
                transforms.to_pil_image(picture).save(Path(drawn) / f"{path.stem}.png")
            except NOT_DRAWN as why:
                broken.append(InputError(f"{out / path.stem}.png: cannot be drawn or written: {why}"))
        for written in sorted(Path(drawn).iterdir()):
            try:
                written.replace(out / written.name)
            except OSError as why:
                broken.append(InputError(f"{out / written.name}: cannot be drawn or written: {why}"))
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (out / "boxes.json").write_text(text, encoding="utf-8", errors="backslashreplace")  # a name may be no UTF-8
    if as_json:
        print_json(found)
    else:
        for entry in found:
            print(f"{entry['image']}: {len(entry['objects'])} objects")
        print(f"pictures and boxes.json in {out}")
    for error in broken:
        print(f"error: {error}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)


def _pictures(images: "list[Path]", out: Path) -> "list[Path]":
    """The images and those in the folders among them. Raises InputError where their results would replace others."""
    from detpress.errors import InputError
    from detpress.files.pictures import SUFFIXES, pictures_below

    found: list[Path] = []
    for path in images:
        of_path = pictures_below(path) if path.is_dir() else [path]
        if not of_path:
            raise InputError(f"{path}: no pictures in this folder ({', '.join(SUFFIXES)})")
        found += of_path
    named: dict[str, Path] = {}
    for path in found:
        if path.stem in named:
            raise InputError(
                f"{named[path.stem]} and {path} have the same name, and so would their pictures; give them one at a "
                "time, each with an --out of its own"
            )
        named[path.stem] = path
    for written in (out / "boxes.json", *(out / f"{path.stem}.png" for path in found)):
        if written.is_file():
            raise InputError(f"{written}: exists already; expected another folder (--out DIR)")
    return found


def _readable(images: "list[Path]", progress: "Progress") -> "tuple[list[Path], list[InputError]]":
    """The images that can be read, and what is wrong with each of the others."""
    from detpress.detector.images import read_image
    from detpress.errors import InputError

    found, broken = [], []
    for i, path in enumerate(images):
        try:
            read_image(path)
            found.append(path)
        except InputError as error:
            broken.append(error)
        progress("images read", i + 1, len(images))
    return found, broken


def _open(source: str, runtime: str | None) -> "tuple[Architecture, Run, str]":
    """What decodes boxes, what computes raw maps of one image or more, and in which runtime: of a bundle or a file."""
    import torch

    from detpress.builtin import find_bundle
    from detpress.encodings.bundle import load_bundle
    from detpress.errors import InputError, nearest
    from detpress.measure.scoring import scoring_runtime
    from detpress.runtimes.names import RUNTIMES
    from detpress.runtimes.opening import EXPORTED, open_runtime, read_exported

    if runtime is not None and runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime}: {nearest(runtime, RUNTIMES)}")
    if (path := Path(source)).suffix in EXPORTED and not path.is_dir():
        if runtime not in (None, EXPORTED[path.suffix]):
            raise InputError(f"--runtime {runtime}: {path} runs in {EXPORTED[path.suffix]}")
        architecture, opened = read_exported(path, torch.get_num_threads())
        return architecture, opened.run, opened.name
    model = load_bundle(find_bundle(source))
    opened = open_runtime(runtime or scoring_runtime(model.form, ["openvino"]), model)
    return model.architecture, opened.run, opened.name
