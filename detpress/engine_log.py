"""What an engine says goes into the stage's log, not onto the user's terminal or into what a program reads."""

import contextlib
import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator


class _Lines:
    """A text stream that hands every line to a logger."""

    def __init__(self, log: logging.Logger) -> None:
        self.log = log

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self.log.info("%s", line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Lines are handed on at once."""

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def engine_messages(log: logging.Logger, *names: str) -> Iterator[None]:
    """Sends prints, warnings and the loggers called `names` to `log` while the engine works."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = log.handlers, False
    lines = _Lines(log)
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(lines):
            yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
    for warning in caught:
        log.warning("%s", warning.message)


@contextlib.contextmanager
def standard_output_into(descriptor: int) -> Iterator[None]:
    """What anybody writes to the standard output meanwhile, C code and child processes included, goes to `descriptor`.

    The standard output itself is left to what a program reads there, such as `--json`.
    """
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace", buffering=1) as text:
        with contextlib.suppress(AttributeError):  # there is none in a process that was started without
            sys.stdout.flush()
        flush_c_library()
        kept = os.dup(1)
        os.dup2(descriptor, 1)
        try:
            with contextlib.redirect_stdout(text):  # in a notebook, or under a test, it is not descriptor 1
                yield
        finally:
            flush_c_library()
            os.dup2(kept, 1)
            os.close(kept)


def flush_c_library() -> None:
    """It keeps a buffer of its own, which would be written after the standard output is back."""
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
