"""What runs in an environment of an engine's own, by the Python there: nothing but the standard library is known.

    the stage ── this process ── a copy of it that calls the function, the first of a process group

The first line of the standard input says what is to be called. When the input is closed, whoever asked is gone,
however that happened, and the group is killed. What is told, an object a line, goes to the standard output; what
anybody prints goes where the standard error goes, the stage's log.
"""

import ctypes
import faulthandler
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

LOOKED = 0.02  # seconds between two looks at whether the copy has ended


def main() -> NoReturn:
    request = json.loads(sys.stdin.buffer.readline())
    events = os.dup(1)
    os.dup2(2, 1)
    child = os.fork()
    if child == 0:
        _child(request, events)
    with suppress(OSError):  # it may have done so itself, and be gone
        os.setpgid(child, child)
    status = None
    while status is None:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
        elif select.select([0], [], [], LOOKED)[0]:  # nothing more is asked: it was closed
            break
    with suppress(OSError):  # what the function started goes with it
        os.killpg(child, signal.SIGKILL)
    if status is not None:
        _tell(events, "ended", os.waitstatus_to_exitcode(status))
    os._exit(0)


def _child(request: dict[str, Any], events: int) -> NoReturn:
    """Calls the function, and ends."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
        faulthandler.enable()
        if request["memory"] is not None:
            _limit_memory(int(request["memory"] * 1e9))
        called = _loaded(request["file"], request["function"])
        _tell(events, "returned", called(partial(_tell_progress, events), **request["arguments"]))
    except BaseException as error:  # whatever it raises, it raises it here alone
        traceback.print_exc()
        _tell(events, "raised", _told_of(error, request["file"]))
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            ctypes.CDLL(None).fflush(None)
        os._exit(0)


def _loaded(file: str, function: str) -> Callable[..., Any]:
    """The function of the file, which is imported alone: its package is not installed here."""
    name = Path(file).stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    called: Callable[..., Any] = getattr(module, function)
    return called


def _told_of(error: BaseException, file: str) -> dict[str, Any]:
    """What was raised, at which line of the file, and whether that says that memory was refused."""
    said = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    refused = isinstance(error, MemoryError) or any(word in said for word in ("bad_alloc", "allocate memory"))
    name = Path(file).name
    return {
        "said": ": ".join(filter(None, (type(error).__name__, said))),
        "place": f"{name}:{lines[-1]}" if lines else name,
        "memory": refused,
    }


def _limit_memory(most: int) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _tell_progress(events: int, what: str, done: int, total: int) -> None:
    _tell(events, "progress", [what, done, total])


def _tell(events: int, event: str, told: Any) -> None:
    """A new line first: whoever was ended may have left the beginning of one."""
    line = ("\n" + json.dumps({"event": event, "told": told}) + "\n").encode()
    while line:
        line = line[os.write(events, line) :]


if __name__ == "__main__":
    main()
