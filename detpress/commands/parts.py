"""What networks and trainings are made of: `detpress encodings`, `layers`, `objectives`, and the architectures."""

from typing import Annotated, Any

import typer

from detpress.commands.options import Json, echo_columns, print_json

Name = Annotated[str | None, typer.Argument(help="Show one's card: what it is, and its options.")]


def encodings(name: Name = None, as_json: Json = False) -> None:
    """How the weights of a layer can be kept and computed, or one encoding's card.

    \b
    detpress encodings
    detpress encodings packed
    """
    from detpress.contract.card import dataclass_card
    from detpress.detector.encoding import Encoding
    from detpress.encodings.known import ENCODINGS

    _show(name, ENCODINGS, Encoding, dataclass_card, as_json)


def layers(name: Name = None, as_json: Json = False) -> None:
    """The kinds of layers that a network can have, or one kind's card.

    \b
    detpress layers
    detpress layers convolution
    """
    from detpress.contract.card import dataclass_card
    from detpress.detector.layer import Layer
    from detpress.detector.layer_kinds import LAYERS

    _show(name, LAYERS, Layer, dataclass_card, as_json)


def objectives(name: Name = None, as_json: Json = False) -> None:
    """What can be learnt in a training by its name in a recipe, or one objective's card.

    \b
    detpress objectives
    detpress objectives detection
    """
    from detpress.contract.card import card
    from detpress.training.named_objective import OBJECTIVES
    from detpress.training.objective import Objective

    _show(name, OBJECTIVES, Objective, card, as_json)


def list_architectures(as_json: bool) -> None:
    from detpress.detector.design import ARCHITECTURES, Design

    _show(None, ARCHITECTURES, Design, None, as_json)


def _show(name: str | None, group: str, kind: Any, card_of: Any, as_json: bool) -> None:
    """All of the group's classes, which are subclasses of `kind`, or the card of one."""
    from detpress.doors import distribution_of, entries_of, load_class
    from detpress.errors import InputError

    if name is not None and name not in entries_of(group):
        load_class(name, group, kind)
    rows, loaded = [], None
    for each in sorted(entries_of(group)) if name is None else [name]:
        try:
            loaded = load_class(each, group, kind)
            said = (loaded.__doc__ or "").strip().partition("\n")[0]
        except InputError as error:
            said = f"broken: {error}"
        rows.append({"name": each, "description": said, "distribution": " ".join(distribution_of(each, group))})
    if as_json:
        print_json(rows)
    elif name is not None and loaded is not None:
        print(card_of(f"{name}  ({rows[0]['distribution']})", loaded))
    else:
        echo_columns([(row["name"], row["description"], row["distribution"]) for row in rows])
