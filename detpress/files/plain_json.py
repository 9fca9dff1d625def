"""JSON from files that need not be as detpress wrote them: whatever is wrong with one is an InputError."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from detpress.errors import InputError, nearest, shortened
from detpress.files.plain import plain


def parse_json(content: bytes, path: Path, **options: Any) -> Any:
    """What `content`, the bytes of `path`, says. Raises InputError, with the line, where it is no JSON.

    options: of `json.loads`.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), **options)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not JSON: no UTF-8") from error
    except RecursionError:
        raise InputError(f"{path}: not what detpress writes: nested too deep") from None
    except ValueError as error:  # Python converts no more than 4,300 digits
        raise InputError(f"{path}: not what detpress writes: a number of thousands of digits") from error


def read_json(path: Path, **options: Any) -> Any:
    """What the file says. Raises InputError where it cannot be read or is no JSON. options: of `json.loads`."""
    try:
        content = plain(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_json(content, path, **options)


def check_keys(where: str, data: Any, required: Collection[str], optional: Collection[str] = ()) -> None:
    """Raises InputError, beginning with `where`, unless `data` is an object with these keys and no others."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object, got {shortened(data)}")
    for key in required:
        if key not in data:
            raise InputError(f"{where}: {key} is missing")
    for key in data:
        if key not in required and key not in optional:
            raise InputError(f"{where}: unknown key {shortened(key)}; {nearest(key, [*required, *optional])}")
