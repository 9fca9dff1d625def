"""The kinds of layers that are installed, found by the entry-point group `detpress.layers`."""

from typing import Any

from detpress.detector.layer import Layer
from detpress.doors import Door, class_of_entry, classes_of, entry_of, name_of
from detpress.doors.card import documented_dataclass

LAYERS = Door("detpress.layers", "detpress.detector.layer:Layer", documented_dataclass)


def layer_kinds() -> dict[str, type[Layer]]:
    """All kinds by their names, without those that cannot be imported."""
    return classes_of(LAYERS)


def kind_name(kind: type[Layer]) -> str:
    """The name by which model.json has the kind. Raises InputError for one that no package brings by a name."""
    return name_of(kind, LAYERS)


def layer_from_dict(where: str, data: Any) -> Layer:
    """Raises InputError, beginning with `where`, where `data` describes no layer."""
    kind, options = class_of_entry(where, data, LAYERS)
    layer: Layer = kind.from_dict(where, options)
    return layer


def layer_as_dict(layer: Layer) -> dict[str, Any]:
    """The entry of model.json: the kind, the package that brings it if it is not detpress, and the options."""
    return {**entry_of(type(layer), LAYERS), **layer.as_dict()}
