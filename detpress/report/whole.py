"""Tables in which a narrow console cuts no figure."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Column, Table

LABEL = 20  # columns of text for the names of rows, at most, where space is short


class WholeFigures:
    """A table that goes on in another one below it, with the same first column, where the console is too narrow."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        label, *others = self.table.columns
        label_width = min(_needed(label, whole=True), LABEL)
        parts: list[list[Column]] = [[]]
        space = options.max_width - label_width - 3
        left = space
        for column in others:
            width = _needed(column, whole=column.no_wrap) + 1
            if width > left and parts[-1]:
                parts.append([])
                left = space
            left -= width
            parts[-1].append(replace(column, min_width=min(width - 1, space)))
        first = replace(label, no_wrap=False, overflow="fold", min_width=label_width)
        for number, part in enumerate(parts):
            table = copy(self.table)
            table.columns = [replace(column, _index=i) for i, column in enumerate((first, *part))]
            table.title = self.table.title if number == 0 else None
            table.caption = self.table.caption if number == len(parts) - 1 else None
            yield table


def _needed(column: Column, whole: bool) -> int:
    """The width of the longest line, or, where lines may be wrapped, of the longest word."""
    texts = [str(column.header), *map(str, column.cells)]
    return max((cell_len(part) for text in texts for part in (text.splitlines() if whole else text.split())), default=1)
