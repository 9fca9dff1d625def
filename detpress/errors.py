"""What detpress says when it stops: one line for a person, one exit code for a program."""

import errno
import signal
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LONGEST_ECHO = 80  # characters of a value in a message


class DetpressError(Exception):
    """Base of every error whose text is shown to the user as it is, without a traceback."""

    exit_code = 1


class InputError(DetpressError):
    """The user's input is wrong. The message names the place, what is wrong and what was expected."""

    exit_code = 2


class NotInstalledError(InputError):
    """What a file names is of a package that is not installed here, or cannot be imported: the file may be whole."""


class StageError(DetpressError):
    """The input was fine, the work failed: an engine broke, changed nothing, or the loss was not finite."""


class StoppedError(DetpressError):
    """The work was stopped from outside by SIGTERM; what was finished is kept."""

    exit_code = 128 + signal.SIGTERM


def own_kind(error: DetpressError) -> type[DetpressError]:
    """The nearest of the classes above, which take a message alone; a stranger's subclass need not."""
    return next(kind for kind in type(error).__mro__ if kind.__module__ == __name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be, so that the same steps take down what runs."""


def terminate(number: int, frame: object) -> None:
    """The handler of SIGTERM: without one, Lightning turns the signal into an exit that counts as success."""
    raise Terminated


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: the nearest of `choices`, or all of them when none is near and they are few."""
    known = sorted(choices)
    by_letters = {name.casefold(): name for name in reversed(known)}
    close = get_close_matches(word.casefold(), by_letters, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_letters[close[0]]}'?"
    if not known:
        return "expected none"
    if len(known) <= 12:
        return f"expected one of: {', '.join(known)}"
    return f"none of the {len(known)} known names is near"


def shortened(value: Any) -> str:
    """The value as Python writes it, its middle left out where it is long."""
    try:
        return cut_short(repr(value))
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def cut_short(text: str) -> str:
    """On one line, its middle left out where it is long."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= LONGEST_ECHO else f"{text[: LONGEST_ECHO // 2]}...{text[-LONGEST_ECHO // 4 :]}"


def no_room(error: BaseException) -> bool:
    """Whether the operating system refused a write because the disk, the quota or the largest file size is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def ending(code: int) -> str:
    """What an exit status says."""
    if code >= 0:
        return f"its process ended with exit status {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}" + (", as the system does when memory runs out" * (name == "SIGKILL"))
