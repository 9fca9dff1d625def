"""A stage made in a process of its own, whose end is the end of nothing but the stage."""

import atexit
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from detpress import errors
from detpress.doors.broken import place_in
from detpress.errors import StageError, cut_short, ending
from detpress.run.making import Made, Task
from detpress.run.nursery import Request, send, serve

LAST_LINES = 3  # of a log, in an error
PATIENCE = 5.0  # seconds for what was stopped to be gone

Event = dict[str, Any]


def make_apart(task: Task, progress: Callable[[str, int, int], None]) -> Made:
    """As `detpress.run.making.make`, in a process of its own; StageError, too, for one that ends in whatever way."""
    running, dump = task.work.apart, task.scratch / "ended.txt"
    assert running is not None
    request = Request(
        _pickled(task),
        _nursery.imports,
        str(task.log.absolute()),
        str(dump.absolute()),
        [str(Path(folder).absolute()) for folder in sys.path],
        dict(os.environ),
        str(Path.cwd()),
        torch.get_num_threads(),
        running.timeout,
        running.memory,
    )
    made: Made | None = None
    failure: Exception | None = None
    with closing(_nursery.ask(request, task)) as events:
        for event in events:
            told = event["told"]
            match event["event"]:
                case "progress":
                    progress(*told)
                case "made":
                    made = Made(**told)
                case "failed":
                    failure = getattr(errors, told["kind"])(told["reason"])
                case "no room":
                    failure = OSError(*told)
                case "imported":
                    _nursery.imports = told
                case _:
                    ended = told
    if made is None and failure is None:
        failure = StageError(_forced(task, dump, ended))
    dump.unlink(missing_ok=True)
    if failure is not None:
        raise failure
    assert made is not None
    return made


def copy_this_process() -> None:
    """Makes a copy of this process the one that stages are copied from, which then imports nothing again.

    To be called where PyTorch is imported, but has not computed.
    """
    if threading.active_count() == 1:
        _nursery.begin(copied=True)


def _pickled(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:  # whatever a stranger's class makes of it
        raise StageError(
            f"{task.work} cannot be handed to a process of its own ({error}); `isolated: false` runs it in this one"
        ) from error


def _forced(task: Task, dump: Path, ended: Event) -> str:
    """What is said of a stage whose process ended without a word of its own."""
    said = dump.read_text(encoding="utf-8", errors="replace") if dump.is_file() else ""
    lines = task.log.read_text(encoding="utf-8", errors="replace").splitlines() if task.log.is_file() else []
    last = [cut_short(line.strip()) for line in lines if line.strip()][-LAST_LINES:]
    if said:
        with task.log.open("a", encoding="utf-8") as log:
            log.write(said)
    timeout = task.work.apart.timeout if task.work.apart else None
    what = f"took longer than the {timeout:g} s of its `timeout`" if ended["late"] else ending(ended["status"])
    place = place_in(said, task.work.entry) if task.work.entry else ""
    at = f", at {place}" if place else ""
    return f"{task.work}: {what}{at}; its log ends with: {' | '.join(last) or 'nothing'}; see {task.log}"


def _event(line: str) -> Event | None:
    """None for what is none: the rest of what a process wrote when it was ended."""
    with suppress(ValueError):
        event = json.loads(line)
        return event if isinstance(event, dict) else None
    return None


class _Nursery:
    """The process of `detpress.run.nursery`, from the first stage that needs it to the end of this one."""

    def __init__(self) -> None:
        self.channel: socket.socket | None = None
        self.end: Callable[[], object] = int  # waits until it has ended
        self.imports: list[str] = []  # see `Request`
        self.held = threading.Lock()

    def ask(self, request: Request, task: Task) -> Generator[Event]:
        """What is told of the stage; `ended` is the last."""
        with self.held:
            try:
                if self.channel is None:
                    self.begin(copied=False)
                assert self.channel is not None
                send(self.channel, request)
                with self.channel.makefile("r", encoding="utf-8") as lines:
                    for line in lines:
                        if event := _event(line):
                            yield event
                            if event["event"] == "ended":
                                return
                raise StageError(
                    f"{task.work}: the process that makes stages was ended meanwhile, by the step or from outside; see "
                    f"{task.log}; if from outside, the same command goes on"
                )
            except BaseException:  # Ctrl-C among them: what is being made ends now
                self.close()
                raise

    def begin(self, copied: bool) -> None:
        """copied: of this process; otherwise a Python of its own, which takes seconds."""
        ours, theirs = socket.socketpair()
        if copied:
            child = os.fork()
            if child == 0:
                ours.close()
                serve(theirs)
            self.end = lambda: os.waitpid(child, 0)
        else:
            path = [str(Path(folder).absolute()) for folder in sys.path]
            start = (
                f"import sys; sys.path[:] = {path!r}; from detpress.run.nursery import main; main({theirs.fileno()})"
            )
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", start],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.end = process.wait
        theirs.close()
        self.channel = ours
        atexit.register(self.close)

    def close(self) -> None:
        """Ends what is being made, and waits until it is gone."""
        channel, self.channel = self.channel, None
        if channel is not None:
            with channel, suppress(OSError):
                channel.shutdown(socket.SHUT_WR)
                channel.settimeout(PATIENCE)
                while channel.recv(4096):
                    pass
            self.end()


_nursery = _Nursery()
