"""The command line as a user has it: `main()` in this process, its exit code and what it printed."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from detpress.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Said]


def run_command(arguments: tuple[object, ...], capture: pytest.CaptureFixture[str]) -> Said:
    """Runs `detpress ARGUMENTS`. An exception that `main` lets through would be a traceback, and fails the test."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["detpress", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert isinstance(stop.value.code, int)
    return Said(stop.value.code, *capture.readouterr())
