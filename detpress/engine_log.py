"""What an engine says goes into the stage's log, not onto the user's terminal."""

import contextlib
import logging
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
