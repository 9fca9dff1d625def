"""One section of Darknet's network description, and what may be asked of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from detpress.errors import InputError


@dataclass
class Section:
    """`[kind]` at a line of the file.

    options: name -> its line and text. kept: of these, the ones that decide nothing here. unknown: likewise, of those
    that are not known to be Darknet's.
    """

    path: Path
    line: int
    kind: str
    options: dict[str, tuple[int, str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, tuple[int, str]] = field(default_factory=dict)

    def error(self, message: str, option: str = "") -> InputError:
        line = self.options[option][0] if option in self.options else self.line
        return InputError(f"{self.path}:{line}: [{self.kind}] {message}")

    def word(self, option: str, default: str) -> str:
        return self.options[option][1] if option in self.options else default

    def whole_numbers(self, option: str, low: int, high: int) -> list[int]:
        """The option's list of numbers; empty where it is absent."""
        if option not in self.options:
            return []
        numbers = []
        for text in self.options[option][1].split(","):
            number = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else None
            if number is None or not low <= number <= high:
                raise self.error(f"{option}: expected a whole number from {low} to {high}, got '{text[:40]}'", option)
            numbers.append(number)
        return numbers

    def whole_number(self, option: str, default: int, low: int, high: int) -> int:
        numbers = self.whole_numbers(option, low, high) or [default]
        if len(numbers) > 1:
            raise self.error(f"{option}: expected one number, got {len(numbers)}", option)
        return numbers[0]

    def sources(self, option: str, index: int) -> tuple[int, ...]:
        """Layers before `index`; a negative number counts back from it."""
        if option not in self.options:
            raise self.error(f"expected the option {option}")
        if not index:
            raise self.error("is the first layer: expected one before it")
        numbers = self.whole_numbers(option, -index, index - 1)
        return tuple(number if number >= 0 else index + number for number in numbers)

    def source(self, option: str, index: int) -> int:
        """The one layer that an operator takes beside the layer before."""
        sources = self.sources(option, index)
        if len(sources) > 1:
            raise self.error(f"{option}: expected one layer, got {len(sources)}", option)
        return sources[0]

    def stride(self, default: int) -> int:
        """The same in both directions: `stride_x` and `stride_y`, and `stride` for what is absent of them."""
        stride = self.whole_number("stride", default, 1, 32)
        x, y = (self.whole_number(option, stride, 1, 32) for option in ("stride_x", "stride_y"))
        if x != y:
            option, found, other = ("stride_x", x, y) if x != stride else ("stride_y", y, x)
            raise self.error(f"{option}: {found}; only the stride, {other}, is computed in both directions", option)
        return x

    def number(self, option: str, default: float) -> float:
        text = self.word(option, str(default))
        if not re.fullmatch(r"[+-]?(\d{1,9}\.?\d{0,9}|\.\d{1,9})", text):
            raise self.error(f"{option}: expected a number, got '{text[:40]}'", option)
        return float(text)
