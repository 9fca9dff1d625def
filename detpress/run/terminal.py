"""What a person sees while a run goes on, on stderr: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from detpress.run.stage import Stage

PLAIN_SECONDS = 10.0  # between two progress lines where there is no terminal


class TerminalListener:
    """A `detpress.run.stage.Listener` for people; a context manager, since the live bar must be taken down."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", visible=False)
        self._what = ""
        self._said = time.monotonic()
        self._head = ""

    def __enter__(self) -> "TerminalListener":
        self._bar.start()
        self._said = time.monotonic()  # what was imported until now is no progress to tell
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, index: int, total: int, name: str) -> None:
        self._head = f"[{index}/{total - 1}] {name}"
        self.say(self._head)
        self._said = time.monotonic()

    def waiting(self) -> None:
        self.say("  another process is at this stage; waiting for it")

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._bar.reset(self._task, total=total, visible=True)
            self._what = what
        self._bar.update(self._task, description=what, completed=done, total=total)
        if self._bar.disable and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"  {what}: {done} of {total}")

    def end(self, stage: "Stage") -> None:
        self._bar.update(self._task, visible=False)
        self._what = ""
        how = "reused" if stage.reused else f"{stage.seconds:.1f} s"
        metrics = stage.metrics
        self.say(f"  {how}; {stage.form}, mAP {metrics['map']:.4f}, {metrics['parameters']:,} parameters")
        for note in stage.notes:
            self.say(f"  {note}")
