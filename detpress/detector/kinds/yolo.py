"""The layer that marks a raw detection map."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from detpress.detector.darknet_section import Section
from detpress.detector.layer import LARGEST_COUNT, Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

Anchors = Sequence[tuple[float, float]]  # (width, height) of each anchor box in pixels of the network's input


@dataclass(frozen=True)
class Yolo(Layer):
    """Marks the output of the layer before as a raw detection map.

    anchors: (width, height) of each anchor box in pixels of the network's input.
    """

    anchors: tuple[tuple[float, float], ...]

    passes_on: ClassVar[bool] = True
    section: ClassVar[str] = "yolo"
    section_options: ClassVar[str] = "mask anchors classes num"
    training_options: ClassVar[str] = (
        "jitter ignore_thresh truth_thresh random max resize iou_thresh iou_loss iou_normalizer obj_normalizer "
        "cls_normalizer max_delta label_smooth_eps nms_kind beta_nms"
    )

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return before

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    @classmethod
    def checked(cls, option: str, value: Any) -> tuple[tuple[float, float], ...]:
        if not isinstance(value, list) or not value or not all(map(_is_anchor, value)):
            raise InputError(f"expected pairs of positive numbers, got {shortened(value)}")
        return tuple((float(width), float(height)) for width, height in value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        texts = section.word("anchors", "").split(",")
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = []
        if not numbers or len(numbers) % 2 or not all(math.isfinite(number) and number > 0 for number in numbers):
            raise section.error("anchors: expected pairs of positive numbers, width and height", "anchors")
        anchors = list(zip(numbers[::2], numbers[1::2], strict=True))
        count = section.whole_number("num", len(anchors), 1, LARGEST_COUNT)
        if count != len(anchors):
            raise section.error(f"num: {count}, but anchors has {len(anchors)} pairs", "num")
        mask = section.whole_numbers("mask", 0, len(anchors) - 1) or range(len(anchors))
        return cls(tuple(anchors[i] for i in mask))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        """Every yolo layer lists the anchors of all, from the finest scale on, and masks its own."""
        after = [layer.anchors for layer in layers[index + 1 :] if isinstance(layer, Yolo)]
        before = [layer.anchors for layer in layers[:index] if isinstance(layer, Yolo)]
        first = sum(map(len, after))
        anchors = [anchor for own in reversed([*before, self.anchors, *after]) for anchor in own]
        return {
            "mask": ",".join(map(str, range(first, first + len(self.anchors)))),
            "anchors": ",  ".join(f"{_number(width)},{_number(height)}" for width, height in anchors),
            "classes": classes,
            "num": len(anchors),
        }


def _is_anchor(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(side) in (int, float) and 0 < side <= sys.float_info.max for side in value)


def _number(value: float) -> str:
    """The shortest text that reads back to `value`; Darknet's own files write whole anchors without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))
