"""`detpress sensitivity`."""

from pathlib import Path
from typing import Annotated

import typer

from detpress.commands.options import Json, print_json


def sensitivity(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The folder of an int8 or packed model's bundle.")],
    data: Annotated[str, typer.Option(metavar="ROOT", help="A data set's folder, or builtin:digits.")],
    parent: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="The float model it was made of; in a run's folder, the stage before."),
    ] = None,
    split: Annotated[str, typer.Option(help="The image set.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="How many of its images, spread evenly.")] = 8,
    score: Annotated[
        bool, typer.Option("--map", help="Measure the gain of mAP, too: one run over SPLIT a layer.")
    ] = False,
    picture: Annotated[Path, typer.Option(metavar="FILE", help="Where the plot goes (HTML).")] = Path(
        "sensitivity.html"
    ),
    as_json: Json = False,
) -> None:
    """What rounding costs each layer of an int8 or packed model, and what leaving it in float would cost and gain.

    The float weights of layers around depthwise convolutions are of another scale than int8's, where channels were
    equalized before rounding (`corrected`): what is said of these layers, which are named then, means nothing.

    \b
    detpress sensitivity runs/quickstart/4-inc.static_int8/bundle --data builtin:digits
    detpress sensitivity int8 --parent float --data VOCdevkit/VOC2007 --images 16 --map
    """
    from rich.console import Console

    from detpress.builtin import find_bundle
    from detpress.detector.form import Form
    from detpress.detector.images import read_squares
    from detpress.encodings.bundle import load_bundle
    from detpress.encodings.equalization import equalized_pairs
    from detpress.errors import InputError
    from detpress.measure.scoring import score as scored
    from detpress.measure.section import Measure
    from detpress.measure.sensitivity import measure_sensitivity
    from detpress.measure.size import macs
    from detpress.report.sensitivity import plot_sensitivity, sensitivity_table
    from detpress.run.terminal import TerminalListener
    from detpress.voc.named import open_data

    folder = find_bundle(bundle)
    model = load_bundle(folder)
    if model.form not in (Form.INT8, Form.PACKED):
        raise InputError(f"{bundle}: a {model.form} model; expected one in int8 or packed")
    original = load_bundle(find_bundle(parent) if parent else stage_before(folder))
    if original.form not in (Form.DENSE, Form.MASKED):
        raise InputError(f"--parent: a {original.form} model; expected one in float")
    if picture.is_dir() or not picture.absolute().parent.is_dir():
        raise InputError(f"--picture {picture}: expected a file in a folder that exists")
    architecture = model.architecture
    with TerminalListener() as terminal:
        devkit = open_data(data, list(architecture.classes), progress=terminal.progress)
    annotations = devkit.image_set(split)
    chosen = annotations[:: max(1, len(annotations) // images)][:images]
    squares = read_squares(
        [devkit.image_path(annotation) for annotation in chosen],
        architecture,
        [annotation.size for annotation in chosen],
    )
    with TerminalListener() as terminal:
        found = measure_sensitivity(
            model.own_network,
            original.own_network,
            squares,
            terminal.progress,
            (lambda network: scored(network, architecture, devkit, split, Measure(), terminal.progress)[0].map)
            if score
            else None,
        )
    plot_sensitivity(found, picture)
    pairs = equalized_pairs(architecture) if model.form is Form.INT8 else {}
    around = [architecture.names[i] for i in sorted({*pairs, *pairs.values()})]
    if as_json:
        print_json({"split": split, "images": len(chosen), "maybe_equalized": around, **found.as_dict()})
        return
    console = Console()
    console.print(sensitivity_table(found, len(chosen), macs(architecture)))
    if around:
        console.print(f"Of no meaning where channels were equalized (`corrected`): {', '.join(around)}")
    console.print(f"Plot: {picture}", soft_wrap=True, highlight=False, markup=False)


def stage_before(bundle: Path) -> Path:
    """The bundle of the stage before, where `bundle` lies in a run's folder. Raises InputError elsewhere."""
    from detpress.errors import InputError

    stage = bundle.absolute().parent
    index = stage.name.partition("-")[0]
    found = sorted(stage.parent.glob(f"{int(index) - 1}-*/bundle")) if index.isdecimal() else []
    if len(found) != 1:
        raise InputError(f"{bundle}: no stage before it in this folder; expected --parent BUNDLE, the float model")
    return found[0]
