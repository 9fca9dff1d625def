"""What a person sees while a run goes on, on stderr: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from detpress.run.stage import Stage

PLAIN_SECONDS = 10.0  # between two progress lines where there is no terminal


class Terminal:
    """Lines, and a bar of what is being done; a context manager, since the live bar must be taken down."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._what = ""

    def __enter__(self) -> Self:
        self._current = self._bars.add_task("", visible=False)
        self._bars.start()
        self._said = time.monotonic()  # what was imported until now is no progress to tell
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def waiting(self) -> None:
        self.say("  another process is at this stage; waiting for it")

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._bars.reset(self._current, total=total, visible=True)
            self._what = what
        self._bars.update(self._current, description=what, completed=done, total=total)
        if self._bars.disable and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"  {what}: {done} of {total}")


class TerminalListener(Terminal):
    """A `detpress.run.stage.Listener` for people."""

    def begin(self, index: int, total: int, name: str) -> None:
        self.say(f"[{index}/{total - 1}] {name}")
        self._said = time.monotonic()

    def end(self, stage: "Stage") -> None:
        self._bars.update(self._current, visible=False)
        self._what = ""
        how = "reused" if stage.reused else f"{stage.seconds:.1f} s"
        metrics = stage.metrics
        self.say(f"  {how}; {stage.form}, mAP {metrics['map']:.4f}, {metrics['parameters']:,} parameters")
        for note in stage.notes:
            self.say(f"  {note}")
