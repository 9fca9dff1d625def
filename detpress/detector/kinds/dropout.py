"""Dropout, which only counts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from detpress.detector.darknet_section import Section
from detpress.detector.layer import Counted, Layer
from detpress.errors import InputError, shortened


@dataclass(frozen=True)
class Dropout(Counted):
    """Passes on what it takes, in training too; it is there so that the layers after it have Darknet's numbers.

    probability: what Darknet trains with.
    """

    probability: float = 0.5

    section: ClassVar[str] = "dropout"
    section_options: ClassVar[str] = "probability"
    training_options: ClassVar[str] = "dropblock dropblock_size_rel dropblock_size_abs"

    @classmethod
    def checked(cls, option: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise InputError(f"expected a number from 0 to below 1, got {shortened(value)}")
        return float(value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        text = section.word("probability", "0.5")
        if not re.fullmatch(r"0?\.\d{1,9}|0", text):
            raise section.error(f"probability: expected a number from 0 to below 1, got '{text[:40]}'", "probability")
        return cls(float(text))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"probability": f"{self.probability:.9f}".rstrip("0").rstrip(".")}
