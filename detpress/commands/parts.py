"""What networks and trainings are made of: `detpress encodings`, `layers`, `objectives`, and the architectures."""

from typing import TYPE_CHECKING, Annotated

import typer

from detpress.commands.options import Json, echo_columns, print_json

if TYPE_CHECKING:
    from detpress.doors import Door

Name = Annotated[str | None, typer.Argument(help="Show one's card: what it is, and its options.")]


def encodings(name: Name = None, as_json: Json = False) -> None:
    """How the weights of a layer can be kept and computed, or one encoding's card.

    \b
    detpress encodings
    detpress encodings packed
    """
    from detpress.encodings.known import ENCODINGS

    _show(name, ENCODINGS, as_json)


def layers(name: Name = None, as_json: Json = False) -> None:
    """The kinds of layers that a network can have, or one kind's card.

    \b
    detpress layers
    detpress layers convolution
    """
    from detpress.detector.layer_kinds import LAYERS

    _show(name, LAYERS, as_json)


def objectives(name: Name = None, as_json: Json = False) -> None:
    """What can be learnt in a training by its name in a recipe, or one objective's card.

    \b
    detpress objectives
    detpress objectives detection
    """
    from detpress.training.named_objective import OBJECTIVES

    _show(name, OBJECTIVES, as_json)


def list_architectures(as_json: bool) -> None:
    from detpress.detector.design import ARCHITECTURES

    _show(None, ARCHITECTURES, as_json)


def _show(name: str | None, door: "Door", as_json: bool) -> None:
    """All that comes by the door, or the card of one; exit code 1 where that one is broken."""
    from detpress.doors import findings

    found = findings(door, None if name is None else [name])
    rows = [
        {
            "name": finding.entry.name,
            "description": f"broken: {finding.failure}" if finding.failure else finding.facts["description"],
            "distribution": f"{finding.entry.distribution} {finding.entry.version}",
        }
        for finding in found
    ]
    if as_json:
        print_json(rows)
    elif name is not None and not found[0].failure:
        print(f"{found[0].entry.name}  ({rows[0]['distribution']})\n\n{found[0].facts['card']}")
    else:
        echo_columns([(row["name"], row["description"], row["distribution"]) for row in rows])
    if name is not None and found[0].failure:
        raise typer.Exit(1)
