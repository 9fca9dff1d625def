"""What there is: `detpress model`, `plugins`, `recipes` and `store`."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detpress.commands.options import Json, echo_columns, no_nan, print_json
from detpress.commands.parts import list_architectures

if TYPE_CHECKING:
    from detpress.contract.registry import ChooserListing, Listing

store = typer.Typer(help="The store of finished stages.", no_args_is_help=True)


def model(
    arch: Annotated[
        str | None,
        typer.Argument(metavar="ARCH", help="One of the architectures, or a bundle's folder."),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes; 20 by default.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels, a multiple of 32; 416 by default.")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(min=0.001, max=4.0, callback=no_nan, help="Multiplies the filters of every layer; 1 by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The architectures; or layers, parameters and MACs (multiply-accumulates with weights for one image) of a network.

    A bundle's parameters are those that it stores, as the table of a run counts them.

    \b
    detpress model
    detpress model yolov3 --classes 20 --image-size 416
    detpress model builtin:digits --json
    """
    from detpress.builtin import BUILTIN, find_bundle
    from detpress.detector.architecture import build_architecture, size_text
    from detpress.encodings.bundle import load_bundle
    from detpress.errors import InputError
    from detpress.measure.size import layer_table, stored_table

    if arch is None:
        list_architectures(as_json)
        return
    if arch.startswith(BUILTIN) or Path(arch).is_dir():
        if (classes, image_size, width) != (None, None, None):
            raise InputError(f"--classes, --image-size and --width are for an architecture: {arch} has its own")
        stored = load_bundle(find_bundle(arch))
        architecture, rows = stored.architecture, stored_table(stored)
    else:
        names = [f"class{i}" for i in range(classes or 20)]
        architecture = build_architecture(arch, names, 416 if image_size is None else image_size, width or 1.0)
        rows = layer_table(architecture)
    totals = {"parameters": sum(row.parameters for row in rows), "macs": sum(row.macs for row in rows)}
    if as_json:
        print_json({**totals, "layers": [asdict(row) for row in rows]})
        return
    print(f"{'layer':<12}{'type':<13}{'output':>16}{'parameters':>14}{'MACs':>17}")
    for row in rows:
        tall, wide = row.side if isinstance(row.side, tuple) else (row.side, row.side)
        output = f"{row.channels}x{tall}x{wide}"
        print(f"{row.name:<12}{row.type:<13}{output:>16}{row.parameters:>14,}{row.macs:>17,}")
    print(
        f"{architecture.name}, {len(architecture.classes)} classes: {totals['parameters']:,} parameters, "
        f"{totals['macs'] / 1e6:,.1f} M MACs at {size_text(architecture.image_size)} pixels"
    )


def plugins(
    name: Annotated[str | None, typer.Argument(help="Show one plugin's card: what it does, and its options.")] = None,
    as_json: Json = False,
) -> None:
    """The plugins found, or one plugin's card.

    \b
    detpress plugins
    detpress plugins nni.l1norm
    """
    from detpress.contract.registry import list_plugins

    listings = list_plugins(None if name is None else [name])
    forms = [_forms(listing.accepts, listing.returns) if listing.accepts else "" for listing in listings]
    _show(listings, forms, name is not None, as_json)


def _show(listings: Sequence["Listing | ChooserListing"], kinds: Sequence[str], only_one: bool, as_json: bool) -> None:
    """The rows, or the card of the one that was asked for. kinds: what each is, beside its name.

    One that was asked for and is broken is exit code 1.
    """
    if as_json:
        rows = [asdict(listing) for listing in listings]
        print_json([{key: value for key, value in row.items() if key != "card"} for row in rows])
    elif only_one and listings[0].status != "broken":
        listing = listings[0]
        said = [f"\nunavailable: {listing.reason}"] if listing.status == "unavailable" else []
        said += [f"\n{listing.remark}"] if listing.remark else []
        print(f"{listing.name}  ({kinds[0]}){''.join(said)}\n\n{listing.card}")
    else:
        echo_columns(
            [
                (
                    listing.name,
                    listing.status,
                    kind,
                    f"{listing.engine} {listing.engine_version or 'not installed'}" if listing.engine else "",
                    "; ".join(filter(None, (listing.reason, listing.remark))),
                )
                for listing, kind in zip(listings, kinds, strict=True)
            ]
        )
    if only_one and listings[0].status == "broken":
        raise typer.Exit(1)


def _forms(accepts: Sequence[str], returns: str | None) -> str:
    return f"{' | '.join(accepts)} -> {returns or 'the same'}"


def tuners(
    name: Annotated[str | None, typer.Argument(help="Show one card: what it does, and its options.")] = None,
    as_json: Json = False,
) -> None:
    """What chooses numbers in a recipe's `search`: the tuners, and the assessors that end a trial early.

    \b
    detpress tuners
    detpress tuners nni.tpe
    """
    from detpress.contract.registry import list_choosers
    from detpress.errors import InputError, nearest

    every = list_choosers()
    listings = [listing for listing in every if name in (None, listing.name)]
    if not listings:
        raise InputError(f"unknown tuner '{name}'; {nearest(name or '', [row.name for row in every])}")
    _show(listings, [listing.kind for listing in listings], name is not None, as_json)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print one recipe or study.")] = None, as_json: Json = False
) -> None:
    """The recipes and studies that come with the package, or one's text.

    \b
    detpress recipes
    detpress recipes quickstart > my-recipe.yaml
    detpress recipes six-compressors > my-study.yaml
    """
    from detpress.recipe.file import find_recipe, shipped_recipes
    from detpress.recipe.yaml_source import read_yaml
    from detpress.study.definition import shipped_studies

    studies = shipped_studies()
    if name is not None:
        source = read_yaml(studies[name] if name in studies else find_recipe(name, studies))
        if as_json:
            print_json(source.data)
        else:
            print(source.text, end="")
        return
    found = [
        {"name": recipe, "folder": path.parent.name, "description": read_yaml(path).data.get("description", "")}
        for recipe, path in {**shipped_recipes(), **studies}.items()
    ]
    if as_json:
        print_json(found)
    else:
        echo_columns([(row["folder"], row["name"], row["description"]) for row in found])


@store.command("ls")
def store_ls(as_json: Json = False) -> None:
    """The finished stages, the most recently used first.

    \b
    detpress store ls
    """
    from detpress.run.store import open_store

    found = open_store().listing()
    if as_json:
        print_json([asdict(entry) for entry in found])
    else:
        for entry in found:
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            print(f"{entry.key[:16]}  {made}  {entry.bytes / 1e6:10,.1f} MB  {entry.form:<9}  {entry.plugin}")
        print(f"{len(found)} stages, {sum(entry.bytes for entry in found) / 1e6:,.1f} MB")


@store.command("gc")
def store_gc(
    days: Annotated[
        float, typer.Option(min=0, callback=no_nan, help="Remove stages not used for so many days.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Remove stages that were not used for a while, and what killed stages left.

    \b
    detpress store gc --days 7
    detpress store gc --days 0        everything
    """
    from detpress.run.store import open_store

    removed = open_store().collect(unused_seconds=days * 86400)
    if as_json:
        print_json({"stages": removed.stages, "bytes": removed.bytes})
    else:
        print(f"removed {removed.stages} stages, {removed.bytes / 1e6:,.1f} MB")


@store.command("rm")
def store_rm(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A stage's key, or its beginning, as `store ls` has it.")],
    as_json: Json = False,
) -> None:
    """Remove one finished stage, its measurements with it; a run that asks for it makes it again.

    \b
    detpress store rm 3fa94c1be07d22aa
    """
    from detpress.run.store import open_store

    opened = open_store()
    found = opened.find(key)
    opened.remove(found)
    if as_json:
        print_json({"removed": found})
    else:
        print(f"removed {found}")
