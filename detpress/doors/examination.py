"""The process that imports other packages' classes to see what becomes of it; nothing that they do reaches beyond it.

    detpress ── examination ─┬─ package one     each a copy of this process, which has imported none of them
                             └─ package two     with a time limit; it tells of each class as soon as it knows

It reads a request from its standard input and writes one finding a line, as `detpress.doors.examined` asks for it.
"""

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from detpress.doors.broken import place_in, place_of, sentence, words_of
from detpress.doors.door import Door, imported, named
from detpress.doors.entries import Entry
from detpress.doors.examined import SECONDS

WITHIN = "DETPRESS_EXAMINATION"  # environment variable: set where packages are being examined


def main() -> None:
    request = json.load(sys.stdin)
    os.environ[WITHIN] = "1"
    door = Door(request["group"], request["kind"], named(request["facts"]))
    named(door.kind)  # now, so that it is imported once and in no package's time
    for package in request["packages"]:
        left = [Entry(**entry) for entry in package]
        while left:
            found = list(_examined(left, door, request["limit"]))
            for finding in found:
                print(json.dumps(finding), flush=True)
            left = left[len(found) :]


def _examined(entries: list[Entry], door: Door, limit: float) -> Iterator[dict[str, Any]]:
    """One finding an entry, up to the first that ends its process."""
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as dump:
        child = os.fork()
        if child == 0:
            _examine(entries, door, limit, told, dump)
        status = _end_of(child, limit * len(entries) + 5)
        told.seek(0)
        count = 0
        for line in told:
            yield json.loads(line)
            count += 1
        if count < len(entries):
            dump.seek(0)
            written, entry = dump.read(), entries[count]
            what = _what_happened(status, written, limit)
            yield {"name": entry.name, "failure": sentence(entry, what, place_in(written, entry))}


def _examine(entries: list[Entry], door: Door, limit: float, told: TextIO, dump: TextIO) -> NoReturn:
    """What the copy of this process does; it ends here."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    leave = os._exit

    def tell_and_leave(status: int) -> NoReturn:
        faulthandler.dump_traceback(dump)
        leave(status)

    os._exit = tell_and_leave
    faulthandler.enable(dump)
    try:
        for entry in entries:
            faulthandler.dump_traceback_later(limit, exit=True, file=dump)  # also where C code hangs
            told.write(_finding(entry, door) + "\n")
            told.flush()
    finally:
        leave(0)


def _finding(entry: Entry, door: Door) -> str:
    began = time.perf_counter()
    try:
        loaded = imported(entry, door)
        seconds = time.perf_counter() - began
        return json.dumps({"name": entry.name, "facts": door.facts(loaded), "seconds": round(seconds, 1)})
    except BaseException as error:  # whatever it raises, it raises it here alone
        return json.dumps({"name": entry.name, "failure": sentence(entry, words_of(error), place_of(error, entry))})


def _end_of(child: int, limit: float) -> int:
    """The status with which it ended, if need be because it was killed after `limit` seconds."""
    latest = time.monotonic() + limit
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() > latest:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
    finally:
        with suppress(ProcessLookupError):  # what it started goes with it
            os.killpg(child, signal.SIGKILL)


def _what_happened(status: int, dump: str, limit: float) -> str:
    if "Timeout (" in dump:
        return f"importing it takes longer than {limit:g} s; {SECONDS} gives it more"
    if os.WIFSIGNALED(status):
        return f"importing it ends the process with {signal.Signals(os.WTERMSIG(status)).name}"
    return f"importing it ends the process with exit code {os.waitstatus_to_exitcode(status)}"
