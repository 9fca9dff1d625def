"""What an architecture is: a layer list for any classes, anchors and width.

Found by its name in a recipe (`model.arch`) through the entry-point group `detpress.architectures`, the published ones
too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from detpress.detector.layer import Layer
from detpress.doors import Door, contained, entries_of, entry_named, load_class
from detpress.doors.card import described


class Design(ABC):
    """An architecture by name."""

    anchors: ClassVar[Sequence[tuple[float, float]]]
    """Those that it is used with by default, as many as it takes: (width, height) in pixels at an input of
    `anchors_at`, from the smallest to the largest."""

    anchors_at: ClassVar[int] = 416

    @abstractmethod
    def layers(
        self, classes: int, anchors: Sequence[tuple[float, float]], image_size: int, width: float
    ) -> Sequence[Layer]:
        """The layer list.

        anchors: as many as the class's own, in the same order, pixels at `image_size`. width: multiplies the filters of
        every layer but those of the heads, which have 5 + classes for each of their anchors.
        """


def facts(kind: type[Design]) -> dict[str, Any]:
    """What is known of an architecture. Raises whatever making one raises."""
    kind()
    return described(kind)


ARCHITECTURES = Door("detpress.architectures", "detpress.detector.design:Design", facts)


def find_design(name: str) -> Design:
    """Raises InputError for a name that is unknown, given twice, or broken."""
    kind = load_class(name, ARCHITECTURES)
    with contained(entry_named(name, ARCHITECTURES.group)):
        found: Design = kind()
        return found


def check_architecture(name: str) -> None:
    """Raises InputError for a name that nobody brings, or several packages; nothing is imported."""
    entry_named(name, ARCHITECTURES.group)


def architecture_names() -> list[str]:
    return sorted(entries_of(ARCHITECTURES.group))
