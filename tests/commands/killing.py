"""`detpress run small.yaml` killed with SIGKILL where a test says, and what a run left behind."""

import os
import signal
from pathlib import Path

from processes import begin, detpress

from detpress.run.store import Store
from detpress.run.terminal import TerminalListener
from detpress.training import module as training_module


def run_killed(stage: str, at: str, *arguments: str) -> None:
    """Kills the run as soon as the stage that is worked on reports a progress that begins as told.

    at: or "finish", when the stage is whole but not yet in the store. arguments: beside `small.yaml`.
    """
    code, _, err = begin(Path("printed"), _until, stage, at, *arguments).end()
    assert code == -signal.SIGKILL, err


def _until(at_stage: str, at: str, *arguments: str) -> None:
    """The run that ends itself, in a process of its own."""
    begun = ""

    def begin_stage(self: TerminalListener, index: int, total: int, name: str) -> None:
        nonlocal begun
        begun = name

    def progress(self: TerminalListener, what: str, done: int, total: int) -> None:
        if begun == at_stage and what.startswith(at):
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self: Store, key: str, folder: Path) -> None:
        if (begun, "finish") == (at_stage, at):
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, key, folder)

    whole, Store.finish = Store.finish, finish
    training_module.CHECKPOINT_SECONDS = 0.0
    TerminalListener.begin, TerminalListener.progress = begin_stage, progress
    detpress("run", "small.yaml", *arguments)


def digests(folder: Path) -> dict[str, str]:
    """SHA256SUMS of each stage's bundle in a run's folder."""
    return {path.parents[1].name: path.read_text() for path in folder.glob("*/bundle/SHA256SUMS")}
