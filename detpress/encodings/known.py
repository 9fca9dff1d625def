"""The encodings that are installed, found by the entry-point group `detpress.encodings`."""

from typing import Any

from detpress.detector.encoding import Encoding
from detpress.doors import Door, class_of_entry, entry_of, name_of
from detpress.doors.card import documented_dataclass

ENCODINGS = Door("detpress.encodings", "detpress.detector.encoding:Encoding", documented_dataclass)


def encoding_name(kind: type[Encoding]) -> str:
    """The name by which model.json has the encoding. Raises InputError for one that no package brings by a name."""
    return name_of(kind, ENCODINGS)


def encoding_as_dict(encoding: Encoding) -> dict[str, Any]:
    """The entry of model.json: the name, the package that brings it if it is not detpress, and the fields.

    Raises InputError for an encoding that no package brings by a name.
    """
    return {**entry_of(type(encoding), ENCODINGS), **encoding.as_dict()}


def encoding_from_dict(where: str, data: Any) -> Encoding:
    """Raises InputError, beginning with `where`, where `data` describes no encoding that is installed."""
    kind, options = class_of_entry(where, data, ENCODINGS)
    encoding: Encoding = kind.from_dict(where, options)
    return encoding
