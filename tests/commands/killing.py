"""`detpress run small.yaml` killed with SIGKILL where a test says, and what a run left behind."""

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, sys
from detpress import cli
from detpress.run import store
from detpress.training import module as training_module
from detpress.run.terminal import TerminalListener

_, at_stage, at_progress, *arguments = sys.argv
stage = None

def begin(self, index, total, name):
    global stage
    stage = name

def progress(self, what, done, total):
    if stage == at_stage and what.startswith(at_progress):
        os.kill(os.getpid(), signal.SIGKILL)

def finish(self, key, folder):
    progress(None, "finish", 1, 1)
    return whole(self, key, folder)

training_module.CHECKPOINT_SECONDS = 0.0
whole, store.Store.finish = store.Store.finish, finish
TerminalListener.begin, TerminalListener.progress = begin, progress
sys.argv = ["detpress", "run", "small.yaml", *arguments]
cli.main()
"""


def run_killed(stage: str, at: str, *arguments: str) -> None:
    """Kills the run as soon as the stage that is worked on reports a progress that begins as told.

    at: or "finish", when the stage is whole but not yet in the store. arguments: beside `small.yaml`.
    """
    command = [sys.executable, "-c", PROGRAM, stage, at, *arguments]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def digests(folder: Path) -> dict[str, str]:
    """SHA256SUMS of each stage's bundle in a run's folder."""
    return {path.parents[1].name: path.read_text() for path in folder.glob("*/bundle/SHA256SUMS")}
