"""The kinds of layers that are installed, found by the entry-point group `detpress.layers`."""

from functools import cache
from typing import Any

from detpress.detector.layer import Layer
from detpress.doors import distribution_of, entries_of, load_class
from detpress.errors import InputError, NotInstalledError, cut_short, shortened

LAYERS = "detpress.layers"


def layer_kind(name: str) -> type[Layer]:
    """Raises InputError for a name that is unknown, given twice, or broken."""
    found: type[Layer] = load_class(name, LAYERS, Layer)
    return found


def layer_kinds() -> dict[str, type[Layer]]:
    """All kinds by their names, without those that cannot be imported."""
    found = {}
    for name in entries_of(LAYERS):
        try:
            found[name] = layer_kind(name)
        except InputError:  # said by `layer_kind` to whoever wants that one
            continue
    return found


@cache
def kind_name(kind: type[Layer]) -> str:
    """The name by which model.json has the kind. Raises InputError for one that no package brings by a name."""
    for name, known in layer_kinds().items():
        if known is kind:
            return name
    raise InputError(
        f"{kind.__module__}.{kind.__qualname__} could not be read again: expected an entry point of {LAYERS} for it"
    )


def layer_from_dict(where: str, data: Any) -> Layer:
    """Raises InputError, beginning with `where`, where `data` describes no layer."""
    name = data.get("type") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{where}: expected an object with a type, got {shortened(data)}")
    package = data.get("package")
    if name not in entries_of(LAYERS) and package is not None:
        raise NotInstalledError(
            f"{where}: the layer {shortened(name)} is not installed here; install {cut_short(str(package))}"
        )
    try:
        kind = layer_kind(name)
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error
    return kind.from_dict(where, {key: value for key, value in data.items() if key != "package"})


def layer_as_dict(layer: Layer) -> dict[str, Any]:
    """The entry of model.json: the kind, the package that brings it if it is not detpress, and the options."""
    name = kind_name(type(layer))
    package, version = distribution_of(name, LAYERS)
    of = {} if package == "detpress" else {"package": f"{package} {version}"}
    return {"type": name, **of, **layer.as_dict()}
