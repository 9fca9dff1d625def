"""One recipe of a study in a process of its own: `python -m detpress.study.worker RECIPE`.

What a `Listener` is told goes to the standard output, one JSON object a line; whatever plugins and engines print goes
to the standard error. The process ends when its standard input does, so that none is left behind by a study that was
killed.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from detpress.data import open_data
from detpress.errors import DetpressError
from detpress.initial_model import recipe_classes
from detpress.recipe import read_recipe
from detpress.run import run_chain
from detpress.stage import Stage
from detpress.store import open_store

PROGRESS_SECONDS = 0.2  # at least, between two lines of progress


class LineListener:
    """A `detpress.stage.Listener` that writes lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.started = self.said = time.monotonic()

    def say(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event} | values), file=self.stream, flush=True)

    def begin(self, index: int, total: int, name: str) -> None:
        self.started = time.monotonic()
        self.say("begin", index=index, total=total, name=name)

    def waiting(self) -> None:
        self.say("waiting")

    def progress(self, what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.said >= PROGRESS_SECONDS:
            self.said = time.monotonic()
            self.say("progress", what=what, done=done, total=total)

    def end(self, stage: Stage) -> None:
        self.say("end", reused=stage.reused, seconds=time.monotonic() - self.started)


def main() -> None:
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    listener = LineListener(events)
    recipe = read_recipe(Path(sys.argv[1]))
    try:
        devkit = open_data(recipe.data.root, recipe_classes(recipe))
        for _ in run_chain(recipe, devkit, open_store(), listener):
            pass
    except DetpressError as error:
        listener.say("failed", reason=str(error))
        print(f"detpress: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
