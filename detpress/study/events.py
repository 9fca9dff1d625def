"""What a process or a task that makes stages tells of its progress: plain data, for whoever started it."""

import time
from collections.abc import Callable
from typing import Any

from detpress.run.stage import Stage

PROGRESS_SECONDS = 0.2  # at least, between two events of progress


class EventListener:
    """A `detpress.run.stage.Listener` that makes of each call an event, named by its key `event`."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.tell = tell
        self.started = self.told = time.monotonic()

    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def begin(self, index: int, total: int, name: str) -> None:
        self.started = time.monotonic()
        self.tell({"event": "begin", "index": index, "total": total, "name": name})

    def waiting(self) -> None:
        self.tell({"event": "waiting"})

    def progress(self, what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.told >= PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.tell({"event": "progress", "what": what, "done": done, "total": total})

    def end(self, stage: Stage) -> None:
        self.tell({"event": "end", "reused": stage.reused, "seconds": self.seconds()})
