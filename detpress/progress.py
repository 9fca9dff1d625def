"""How long work tells of itself."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what is being done, how many steps are done, how many there will be
