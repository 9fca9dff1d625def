"""One recipe of a study in a process of its own: `python -P -m detpress.study.worker RECIPE`.

What a `Listener` is told goes to the standard output, one JSON object a line; whatever plugins and engines print goes
to the standard error. The process ends when its standard input does, so that none is left behind by a study that was
killed.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from detpress.errors import DetpressError, StoppedError, Terminated, terminate
from detpress.recipe.file import read_recipe
from detpress.run.apart import copy_this_process
from detpress.run.chain import run_chain
from detpress.run.initial_model import open_recipe_data
from detpress.run.store import open_store
from detpress.study.events import EventListener


def main() -> None:
    copy_this_process()  # before a plugin's module, which may compute, is imported
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    listener = EventListener(lambda event: print(json.dumps(event), file=events, flush=True))
    signal.signal(signal.SIGTERM, terminate)
    recipe = read_recipe(Path(sys.argv[1]))
    try:
        devkit = open_recipe_data(recipe)
        for _ in run_chain(recipe, devkit, open_store(), listener):
            pass
    except DetpressError as error:
        listener.tell({"event": "failed", "reason": str(error)})
        print(f"detpress: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Terminated:
        listener.tell({"event": "failed", "reason": "its process was stopped by SIGTERM"})
        sys.exit(StoppedError.exit_code)


def _end_with_standard_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
