"""`detpress export` and `detpress import`: models to and from other formats."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from zipfile import is_zipfile

import typer

from detpress.commands.options import Json, print_json


def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or builtin:digits.")],
    to: Annotated[str, typer.Option(help="onnx, openvino (.xml, .bin), torch (.pt2) or darknet (.cfg, .weights).")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file; the model's name by default.")] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of an ONNX file, from 13 to 23, in the lowest IR that has it; 17 by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model in another format; what was written is read again and its difference from the bundle printed.

    The exit code is 1 where the difference is larger than usual.

    \b
    detpress export builtin:digits --to onnx
    detpress export builtin:digits --to onnx --opset 13
    detpress export runs/quickstart/4-inc.static_int8/bundle --to openvino --out digits.xml
    detpress export runs/quickstart/3-train.finetune/bundle --to darknet --out small.cfg
    """
    from detpress.builtin import find_bundle
    from detpress.encodings.bundle import load_bundle
    from detpress.encodings.onnx_model import OPSETS
    from detpress.errors import InputError, nearest, shortened
    from detpress.runtimes.export import EXPORTS, WRITTEN_BESIDE, write_onnx
    from detpress.voc.layout import is_a_file_name

    if to not in EXPORTS:
        raise InputError(f"--to {to}: {nearest(to, EXPORTS)}")
    if opset is not None and to != "onnx":
        raise InputError(f"--opset {opset}: a file of {to} has none; expected --to onnx")
    if opset is not None and opset not in OPSETS:
        raise InputError(f"--opset {opset}: expected a number from {OPSETS[0]} to {OPSETS[-1]}")
    model = load_bundle(find_bundle(bundle))
    suffix, write = EXPORTS[to]
    name = model.architecture.name
    if out is None and not is_a_file_name(name):
        raise InputError(f"{bundle}: no file can be called like its network, {shortened(name)}; expected --out FILE")
    path = out or Path(f"{name}{suffix}")
    if path.suffix != suffix:
        raise InputError(f"--out {path}: expected a name that ends in {suffix}")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: cannot be written (no such folder)")
    files = (path, path.with_suffix(WRITTEN_BESIDE.get(suffix, suffix)))
    for file in files:
        if file.exists():
            raise InputError(f"{file}: exists already; expected a new file (--out FILE)")
    try:
        difference = write(model, path) if opset is None else write_onnx(model, path, opset)
    except BaseException:  # what fails or is stopped leaves nothing
        for file in files:
            file.unlink(missing_ok=True)
        raise
    if as_json:
        print_json(
            {
                "path": str(path),
                "largest_difference": difference.largest,
                "largest_value": difference.size,
                "usual": difference.is_usual,
            }
        )
    else:
        print(
            f"{path}: raw maps differ from the bundle's by at most {difference.largest:.3g}, their largest value is "
            f"{difference.size:.3g} (one random image)"
        )
    if not difference.is_usual:
        print(
            f"error: {path}: is not the bundle's model: its raw maps differ by more than {difference.tolerance:g} of "
            f"their largest value, the most that is usual in the form {model.form}; compare by `detpress evaluate`",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def import_model(
    network: Annotated[
        str,
        typer.Argument(metavar="CFG", help="Darknet's network description; or an architecture, for a checkpoint."),
    ],
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="Darknet's, or PyTorch's state dict (.pt, .pth, .ckpt, .safetensors)."),
    ],
    classes: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Class names, one a line (Darknet's .names), or the .data that names them."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The bundle; named like the network by default.")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="letterbox|stretch",
            help="How images come to the input's shape; by default as the cfg says, or else letterboxed.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle of a Darknet network, or of a PyTorch checkpoint of another program's YOLOv3.

    What was taken of a cfg's options is printed. A state dict is matched by order and shape; no code in it is run.

    \b
    detpress import yolov4-tiny.cfg yolov4-tiny.weights --classes coco.names --resize stretch
    detpress import yolov3.cfg yolov3.weights --classes coco.names --out yolov3-coco
    detpress import yolov3 checkpoint.pth --classes coco.names
    """
    from detpress.detector.architecture import RESIZES, size_text
    from detpress.detector.checkpoint import SUFFIXES, import_checkpoint
    from detpress.detector.darknet import read_model
    from detpress.detector.design import architecture_names
    from detpress.encodings.bundle import save_bundle
    from detpress.errors import InputError
    from detpress.files.folders import put_in_place

    names = _class_names(classes)
    folder = out or Path(Path(network).stem)
    if folder.exists():
        raise InputError(f"{folder}: exists already; expected a new folder (--out DIR)")
    found = next((known for known in RESIZES if known == resize), None)
    if resize is not None and found is None:
        raise InputError(f"--resize {resize}: expected one of {', '.join(RESIZES)}")
    if weights.suffix in SUFFIXES or (weights.is_file() and is_zipfile(weights)):  # PyTorch's, whatever their names
        model = import_checkpoint(network, weights, names, found)
    elif network in architecture_names() and not Path(network).exists():
        raise InputError(
            f"{network}: the name of an architecture, which is for a checkpoint ({', '.join(SUFFIXES)}); "
            f"Darknet's {weights.name} needs the cfg that it was trained with"
        )
    else:
        model = read_model(Path(network), weights, names, found)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:  # what is stopped goes with it
        save_bundle(model, Path(temporary) / folder.name)
        put_in_place(Path(temporary) / folder.name, folder)
    architecture = model.architecture
    if as_json:
        print_json(
            {
                "bundle": str(folder),
                "architecture": architecture.name,
                "image_size": architecture.image_size,
                "resize": architecture.resize,
                "notes": list(model.notes),
            }
        )
    else:
        print(f"{folder}: {architecture.name}, {len(names)} classes, {size_text(architecture.image_size)} pixels")
        for note in model.notes:
            print(f"  {note}")


def _class_names(path: Path) -> list[str]:
    """One a line; or those of the file that Darknet's .data calls names, from the working folder or its own.

    Raises InputError for what cannot be read, for a name that comes twice, and for one that results files cannot have.
    """
    from detpress.errors import InputError
    from detpress.voc.results import check_class_name

    lines = _lines(path)
    if path.suffix == ".data":
        options = [line.partition("=") for line in lines]
        place = next((value.strip() for option, _, value in options if option.strip() == "names"), "")
        if not place:
            raise InputError(f"{path}: expected names = FILE")
        path = Path(place) if Path(place).exists() else path.parent / Path(place).name
        lines = _lines(path)
    for number, name in enumerate(lines, start=1):
        if name and (first := lines.index(name) + 1) < number:
            raise InputError(f"{path}:{number}: class '{name}' is named before, in line {first}")
        try:
            check_class_name(name, "test")
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
    return [name for name in lines if name]


def _lines(path: Path) -> list[str]:
    from detpress.errors import InputError
    from detpress.files.plain import plain

    try:
        return [line.strip() for line in plain(path).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text (UTF-8); expected class names, one a line") from error
