"""Options and output that several commands share."""

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detpress.errors import InputError

if TYPE_CHECKING:
    from detpress.report.tracking import Tracking

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, such as chain[0].sparsity=0.5."),
]

Mlflow = Annotated[
    str | None, typer.Option("--mlflow", metavar="URI", help="Log to this MLflow, such as sqlite:///runs.db.")
]


def no_nan(value: float | None) -> float | None:
    """The option's value. Raises BadParameter for NaN, which is in every range for Click, and so for older Typers."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is no number")
    return value


def open_tracking(uri: str | None) -> "Tracking | None":
    """The MLflow at `uri`, reached before anything is computed. Raises InputError where it is not there."""
    if uri is None:
        return None
    try:
        from detpress.report.tracking import Tracking
    except ImportError as error:
        raise InputError(
            f"--mlflow {uri}: {error}; expected the extra `mlflow`: pip install 'detpress[mlflow]'"
        ) from error
    return Tracking(uri)


def make_folder(folder: Path, option: str = "--out") -> None:
    """Makes the folder of the results. Raises InputError, before anything is computed, where none can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written ({error.strerror}); expected a folder") from error


def print_json(value: Any) -> None:
    """Names stand as they are where the encoding of stdout has their letters, and as `\\uXXXX` elsewhere.

    What is no finite number is null, as JSON has none; YAML's dates are texts.
    """
    finite = _finite(value)
    text = json.dumps(finite, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(finite, indent=1, allow_nan=False, default=str)
    print(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def echo_columns(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of equally many cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
