"""The process of which each stage that is made apart gets a copy; nothing that is done there reaches beyond the copy.

    detpress ── nursery ─┬─ stage 1     PyTorch is imported already, which takes seconds
                         └─ stage 2     a process group of its own, ended with all that it has started

A process in which PyTorch has computed must not be copied: its threads would not be there in the copy, and what they
held would be held for ever. The nursery has imported PyTorch, but never computes. It ends, with the stage that is being
made, as soon as the process that started it is gone.
"""

import ctypes
import errno
import faulthandler
import importlib
import json
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from select import select
from typing import Any, NoReturn, TextIO

import torch

from detpress.engine_log import flush_c_library
from detpress.errors import DetpressError, StageError, no_room, own_kind
from detpress.run import application  # noqa: F401  (what tasks consist of is imported here, not once a stage)
from detpress.run.making import Task, make

LENGTH = 8  # bytes that say how long a request is
LOOKED = 0.02  # seconds between two looks at whether a stage has ended
SLOW = ("pytorch_lightning", "torch._inductor.config")  # imported by stages that train, in seconds
GRACE = 0.3  # seconds after its time limit, in which it says where it is
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
CHILDREN = "/proc/self/task/{}/children"
EASILY_ENDED = "500"  # of 1000: when memory runs out, the system ends the stage and not what started it
Tell = Callable[[str, Any], None]


@dataclass(frozen=True)
class Request:
    """A stage to be made, and what it finds around it: what the process that asks has.

    task: a pickled `Task`, to be read in the copy, since reading it imports the plugin.
    imports: what is imported before the copy is made, for all that follow: of `SLOW`, what earlier ones have imported.
    dump: where the copy writes at which line it was when it is ended by force.
    """

    task: bytes
    imports: list[str]
    log: str
    dump: str
    path: list[str]
    environment: dict[str, str]
    folder: str
    threads: int
    timeout: float | None
    memory: float | None


def send(channel: socket.socket, request: Request) -> None:
    contents = pickle.dumps(request)
    channel.sendall(len(contents).to_bytes(LENGTH) + contents)


def serve(channel: socket.socket) -> NoReturn:
    """Makes one stage after the other as `channel` asks for it; there, too, it tells how it goes, an object a line."""
    try:
        os.setsid()  # Ctrl-C in the terminal is answered by the process that started this one
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _into(os.open(os.devnull, os.O_RDWR), 0, 1, 2)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a stage starts and lets go of becomes a child of this process
        while request := _received(channel):
            for name in request.imports:
                importlib.import_module(name)
            child = os.fork()
            if child == 0:
                _child(request, channel)
            status, late = _end_of(child, channel, request.timeout)
            _tell(channel, "ended", {"status": os.waitstatus_to_exitcode(status), "late": late})
    finally:
        os._exit(0)


def main(descriptor: int) -> NoReturn:
    """In a Python that was started for it; `descriptor` is that of the channel."""
    serve(socket.socket(fileno=descriptor))


def _received(channel: socket.socket) -> Request | None:
    """The next request; None where nobody is left to ask."""
    with channel.makefile("rb") as file:
        length = file.read(LENGTH)
        if len(length) < LENGTH:
            return None
        request: Request = pickle.loads(file.read(int.from_bytes(length)))
        return request


def _tell(channel: socket.socket, event: str, told: Any) -> None:
    """A new line first: whoever was ended may have left the beginning of one."""
    channel.sendall(f"\n{json.dumps({'event': event, 'told': told})}\n".encode())


def _end_of(child: int, channel: socket.socket, timeout: float | None) -> tuple[int, bool]:
    """The status with which it ended, and whether that was because it took too long."""
    due = time.monotonic() + (timeout or float("inf"))
    late = False
    with suppress(OSError):  # it may have done so itself, and be gone
        os.setpgid(child, child)
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:  # it may crash of saying where it is, which reads the frames of threads that run
                return status, late or (os.WIFSIGNALED(status) and time.monotonic() > due)
            if time.monotonic() > due + GRACE:
                late = True
                os.killpg(child, signal.SIGKILL)
            if select([channel], [], [], LOOKED)[0]:  # nothing is asked meanwhile: it was closed
                _end_all(child)
                os._exit(1)
    finally:
        _end_all(child)


def _prctl(option: int, value: int) -> None:
    """Only Linux has it."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_all(child: int) -> None:
    """Ends its group, then whatever has left that, until there is none; what is ended leaves its own children here."""
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    with suppress(FileNotFoundError):
        while left := Path(CHILDREN.format(os.getpid())).read_text(encoding="ascii").split():
            for number in map(int, left):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(number, 0)


def _child(request: Request, channel: socket.socket) -> NoReturn:
    """The copy: makes the stage, and ends."""
    leave, held = os._exit, threading.Lock()

    def tell(event: str, told: Any) -> None:
        with held:
            _tell(channel, event, told)

    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should the nursery be ended from outside, or by the step itself
        with suppress(OSError):
            os.setpgid(0, 0)
        dump = _surrounded(request)
        tell(*_made(request, tell))
        tell("imported", [name for name in SLOW if name in sys.modules])
        dump.flush()
        with suppress(Exception):  # a stranger may have put anything there
            sys.stdout.flush()
        flush_c_library()
    finally:
        leave(0)


def _surrounded(request: Request) -> TextIO:
    """Sets up what is around the stage; the file in which is written where it was when it is ended by force."""
    _into(os.open(request.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1, 2)
    sys.stdout, sys.stderr = (
        os.fdopen(os.dup(n), "w", encoding="utf-8", errors="replace", buffering=1) for n in (1, 2)
    )
    sys.path[:] = request.path
    importlib.invalidate_caches()
    os.environ.clear()
    os.environ.update(request.environment)
    with suppress(OSError):  # it may have been removed
        os.chdir(request.folder)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(EASILY_ENDED, encoding="ascii")
    if request.memory is not None:
        _limit_memory(int(request.memory * 1e9))
    if torch.get_num_threads() != request.threads:
        torch.set_num_threads(request.threads)
    dump = Path(request.dump).open("w", encoding="utf-8")  # noqa: SIM115  (open to the end of the process)
    faulthandler.enable(dump)
    if request.timeout is not None:
        faulthandler.dump_traceback_later(request.timeout, file=dump)  # also where C code hangs
    _tell_place_of_exit(dump)
    return dump


def _tell_place_of_exit(dump: TextIO) -> None:
    leave, own = os._exit, os.getpid()

    def tell_and_leave(status: int) -> NoReturn:
        if os.getpid() == own:
            faulthandler.dump_traceback(dump)
        leave(status)

    os._exit = tell_and_leave


def _limit_memory(most: int) -> None:
    """What is asked of the system from now on may not be more; what is there already does not count."""
    status = Path("/proc/self/status")
    if status.is_file():
        [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmData")]
        most += int(line.split()[1]) * 1024
    allowed = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _made(request: Request, tell: Tell) -> tuple[str, Any]:
    """What became of the stage, as an event."""
    name = "the plugin"
    try:
        task: Task = pickle.loads(request.task)
        name = str(task.work)
        made = make(task, lambda what, done, total: tell("progress", [what, int(done), int(total)]))
        return "made", asdict(made)
    except StageError as error:
        if request.memory is not None and _asked_too_much(error.__cause__):
            return _failed(f"{name} asked for more than the {request.memory:g} GB of its `memory`; see {request.log}")
        return _failed(str(error))
    except DetpressError as error:
        return _failed(str(error), own_kind(error).__name__)
    except BaseException as error:  # whatever it raises, it raises it here alone
        if isinstance(error, OSError) and no_room(error):
            return "no room", [error.errno, error.strerror, error.filename]
        return _failed(f"{name} failed: {type(error).__name__}: {error}; see {request.log}")


def _failed(reason: str, kind: str = StageError.__name__) -> tuple[str, Any]:
    return "failed", {"kind": kind, "reason": reason}


def _asked_too_much(error: BaseException | None) -> bool:
    """Whether it is Python's, the system's or PyTorch's word for memory that is not given."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or "allocate memory" in str(error)


def _into(descriptor: int, *others: int) -> None:
    """Makes `others` descriptors of the same file."""
    for other in others:
        os.dup2(descriptor, other)
    os.close(descriptor)
