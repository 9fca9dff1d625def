"""`detpress` in processes that a test stops or kills: copies of one that has imported what takes seconds."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

COPIES = multiprocessing.get_context("forkserver")
COPIES.set_forkserver_preload(
    ["nni.compression.pruning", "nni.compression.speedup", "pytorch_lightning", "detpress.cli"]
    + [f"detpress.{name}" for name in ("adapters.nni_prune", "training.trainer", "run.chain", "report.pictures")]
)
PATIENCE = 20.0  # seconds, on a machine that does other things, too


@dataclass(frozen=True)
class Copy:
    """A process that runs. output: the folder with `out` and `err`, what it prints."""

    process: BaseProcess
    output: Path

    def wait_for(self, pattern: str, folder: Path) -> None:
        """Until a file that fits is below `folder`; the process must not end before."""
        while not list(folder.glob(pattern)):
            assert self.process.is_alive(), self.end()
            time.sleep(0.05)

    def send(self, number: int) -> None:
        """The signal of that number."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int | None, str, str]:
        """Waits for it: its exit code, or the signal's that ended it, less than 0; and what it printed."""
        self.process.join()
        return self.process.exitcode, (self.output / "out").read_text(), (self.output / "err").read_text()


def begin(output: Path, program: Callable[..., object], *arguments: Any) -> Copy:
    """Begins `program(*arguments)` in a copy that has this process's folder, modules' path and environment."""
    output.mkdir(exist_ok=True)
    here = Path.cwd(), list(sys.path), dict(os.environ)
    process = COPIES.Process(target=_run, args=(output.absolute(), *here, program, arguments))
    process.start()
    return Copy(process, output.absolute())


def detpress(*arguments: str) -> None:
    """`detpress ARGUMENTS`, for `begin`."""
    from detpress.cli import main

    sys.argv = ["detpress", *arguments]
    main()


def is_gone(process: int) -> bool:
    """Whether the process of this number has ended, or does so while one can wait."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


def _run(
    output: Path,
    folder: Path,
    path: list[str],
    environment: dict[str, str],
    program: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    os.chdir(folder)
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    program(*arguments)
