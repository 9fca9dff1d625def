"""The encodings that are installed, found by the entry-point group `detpress.encodings`."""

from functools import cache
from typing import Any

from detpress.detector.encoding import Encoding
from detpress.doors import distribution_of, entries_of, load_class
from detpress.errors import InputError, NotInstalledError, cut_short, shortened

ENCODINGS = "detpress.encodings"


def encoding_kind(name: str) -> type[Encoding]:
    """Raises InputError for a name that is unknown, given twice, or broken."""
    found: type[Encoding] = load_class(name, ENCODINGS, Encoding)
    return found


@cache
def encoding_name(kind: type[Encoding]) -> str:
    """The name by which model.json has the encoding. Raises InputError for one that no package brings by a name."""
    for name in entries_of(ENCODINGS):
        try:
            if encoding_kind(name) is kind:
                return name
        except InputError:  # said by `encoding_kind` to whoever wants that one
            continue
    raise InputError(
        f"the encoding {kind.__module__}.{kind.__qualname__} could not be read again: "
        f"expected an entry point of {ENCODINGS} for it"
    )


def encoding_as_dict(encoding: Encoding) -> dict[str, Any]:
    """The entry of model.json: the name, the package that brings it if it is not detpress, and the fields.

    Raises InputError as `encoding_name` does.
    """
    name = encoding_name(type(encoding))
    package, version = distribution_of(name, ENCODINGS)
    of = {} if package == "detpress" else {"package": f"{package} {version}"}
    return {"type": name, **of, **encoding.as_dict()}


def encoding_from_dict(where: str, data: Any) -> Encoding:
    """Raises InputError, beginning with `where`, where `data` describes no encoding that is installed."""
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise InputError(f"{where}: expected an object with a type, got {shortened(data)}")
    options = dict(data)
    name, package = options.pop("type"), options.pop("package", None)
    if name not in entries_of(ENCODINGS) and package is not None:
        raise NotInstalledError(
            f"{where}: the encoding {shortened(name)} is not installed here; install {cut_short(str(package))}"
        )
    try:
        kind = encoding_kind(name)
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error
    return kind.from_dict(where, options)
