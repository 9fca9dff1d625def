"""Intel Neural Compressor at work: what it says goes into the stage's log, and it leaves no file behind.

INC has a workspace, `./nc_workspace/DATE` unless it is told otherwise, and makes that folder when its GPTQ is imported.
Its FP8 part, which is imported with the rest, logs to `~/.habana_logs` unless `LOG_LEVEL_INC` is 6.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

from neural_compressor.common import set_workspace  # here: it sets a logger up, which `engine_messages` would undo

from detpress.engine_log import engine_messages


@contextlib.contextmanager
def inc_work(log: logging.Logger, *loggers: str) -> Iterator[None]:
    """All of INC runs inside, its imports included. loggers: of other packages that speak for it."""
    os.environ.setdefault("LOG_LEVEL_INC", "6")
    os.environ.setdefault("INC_TARGET_DEVICE", "cpu")  # otherwise it moves layers to a GPU, and leaves inputs behind
    with tempfile.TemporaryDirectory() as workspace, engine_messages(log, "neural_compressor", *loggers):
        set_workspace(workspace)
        yield
