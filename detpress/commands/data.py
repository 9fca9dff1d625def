"""`detpress data`: data sets that are known, what is in one, and converting one."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detpress.commands.options import Json, echo_columns, print_json

data = typer.Typer(help="Data sets: those known, fetching, checking and converting one.", no_args_is_help=True)
Root = Annotated[str, typer.Argument(metavar="ROOT", help="A data set's folder, or `builtin:digits`.")]


@data.command("ls")
def data_ls(as_json: Json = False) -> None:
    """The data sets that detpress can make or fetch, and whether they are there.

    \b
    detpress data ls
    """
    from detpress.voc.download import known_data_sets

    rows = known_data_sets()
    if as_json:
        print_json([asdict(row) | {"path": str(row.path)} for row in rows])
    else:
        echo_columns(
            [(row.name, "there" if row.present else "not there", row.description, str(row.path)) for row in rows]
        )


@data.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="voc2007, voc2012 or digits.")],
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; the cache by default.")] = None,
    as_json: Json = False,
) -> None:
    """Download a data set, checksums verified; prints the folder for a recipe's data.root.

    \b
    detpress data get voc2007
    detpress data get digits --root data
    """
    from detpress.run.terminal import TerminalListener
    from detpress.voc.download import get_data_set

    with TerminalListener(quiet="digits" not in name) as terminal:  # torchvision shows downloads in a bar of its own
        path = get_data_set(name, root, terminal.progress)
    if as_json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)


@data.command("check")
def data_check(
    root: Root,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML page with pictures and boxes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is in a data set, in whatever layout: images, classes, objects, sizes, and what to look at.

    Exit code 1 where an annotation or a picture cannot be read.

    \b
    detpress data check photos --page photos.html
    detpress data check VOCdevkit/VOC2007 --json
    """
    from detpress.errors import InputError
    from detpress.report.data_page import data_page
    from detpress.run.data_inspection import inspect_data
    from detpress.run.terminal import TerminalListener
    from detpress.voc.named import open_data

    if page is not None and (page.is_dir() or not page.absolute().parent.is_dir()):
        raise InputError(f"--page {page}: expected a file in a folder that exists")
    with TerminalListener() as terminal:
        devkit = open_data(root, progress=terminal.progress)
        found = inspect_data(devkit, terminal.progress)
    if as_json:
        print_json(asdict(found))
    else:
        print(found.text)
    if page is not None:
        page.write_text(data_page(devkit, found), encoding="utf-8", errors="backslashreplace")
    if found.broken:
        raise typer.Exit(1)


@data.command("convert")
def data_convert(
    root: Root,
    to: Annotated[str, typer.Option(metavar="LAYOUT", help="voc, yolo or coco.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the new data set; must not hold anything.")],
    as_json: Json = False,
) -> None:
    """Write a data set in another layout: boxes exact to the bit, pictures copied.

    What the layout cannot say is told on stderr.

    \b
    detpress data convert photos --to yolo --out photos-yolo
    detpress data convert coco --to voc --out VOCdevkit/VOC2020
    """
    from detpress.errors import InputError, nearest
    from detpress.run.terminal import TerminalListener
    from detpress.voc.convert import TARGETS, convert
    from detpress.voc.named import open_data

    target = next((known for known in TARGETS if known == to), None)
    if target is None:
        raise InputError(f"--to {to}: {nearest(to, TARGETS)}")
    with TerminalListener() as terminal:
        notes = convert(open_data(root, progress=terminal.progress), target, out, terminal.progress)
    for note in notes:
        print(note, file=sys.stderr)
    if as_json:
        print_json({"path": str(out), "notes": notes})
    else:
        print(open_data(str(out)))
