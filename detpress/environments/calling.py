"""Calls a function in an environment: plain data goes in, plain data comes out."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detpress.environments.environment import Environment
from detpress.errors import StageError, ending

INSIDE = Path(__file__).with_name("inside.py")
NOT_HANDED_ON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def call(
    environment: Environment,
    function: str,
    arguments: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
    memory: float | None,
    log: Path,
) -> Any:
    """What `function` (`my_package.inside:quantize`) gives, called there as `quantize(progress, **arguments)`.

    log: to which what it prints is added. memory: GB that it may ask for. Whatever ends this process, or leaves this
    function, ends what runs there. Raises StageError for whatever it does but return plain data, MemoryError where
    memory was refused.
    """
    name, _, called = function.partition(":")
    request = {"file": _file_of(name), "function": called, "arguments": dict(arguments), "memory": memory}
    line = json.dumps(request, default=os.fspath) + "\n"
    around = {key: value for key, value in os.environ.items() if key not in NOT_HANDED_ON}
    with log.open("ab") as printed:
        process = subprocess.Popen(
            [str(environment.python), "-P", "-s", str(INSIDE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in the terminal is answered here
            env=around | {"PYTHONHASHSEED": "0"},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    told: dict[str, Any] = {}
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()
        for event in map(_event, process.stdout):
            if event.get("event") == "progress":
                progress(*event["told"])
            elif event:
                told[event["event"]] = event["told"]
            if "ended" in told:
                break
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
    if raised := told.get("raised"):
        said = f"in its environment: {raised['said']}, at {raised['place']}"
        raise MemoryError(said) if raised["memory"] else StageError(said)
    if "returned" not in told:
        raise StageError(f"in its environment: {ending(told['ended']) if 'ended' in told else 'its process is gone'}")
    return told["returned"]


def _file_of(module: str) -> str:
    """Raises StageError for a module that is no file."""
    spec = None
    with suppress(ImportError, ValueError):
        spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise StageError(f"in_environment: there is no module '{module}'; expected `my_package.my_module:function`")
    return str(Path(spec.origin).absolute())


def _event(line: str) -> dict[str, Any]:
    """Empty for what is none: the rest of what a process wrote when it was ended."""
    with suppress(ValueError):
        event = json.loads(line)
        return event if isinstance(event, dict) else {}
    return {}
