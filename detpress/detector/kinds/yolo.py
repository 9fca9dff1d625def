"""The layer that marks a raw detection map."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from detpress.detector.darknet_section import Section
from detpress.detector.layer import LARGEST_COUNT, Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

Anchors = Sequence[tuple[float, float]]  # (width, height) of each anchor box in pixels of the network's input
LARGEST_EXPONENT = 10.0  # a box 22,026 times its anchor: keeps an untrained network's boxes finite
LARGEST_SCALE = 16  # of `scale_x_y`; published ones have at most 2


@dataclass(frozen=True)
class Yolo(Layer):
    """Marks the output of the layer before as a raw detection map.

    anchors: (width, height) of each anchor box in pixels of the network's input. scale_x_y: a centre's range in units
    of its cell, about the cell's middle: with 1 a box cannot be centred on a cell's border. new_coords: sizes that end
    at four times the anchor.

    The first four of a map's numbers for an anchor, t, are those of a box:

        centre in its cell     s sigmoid(t) - (s - 1) / 2     s: scale_x_y
        size by the anchor     exp(t), or (2 sigmoid(t))^2 with new_coords

    as in AlexeyAB's Darknet (`get_yolo_box` in `src/yolo_layer.c`): Wang, Bochkovskiy, Liao, "Scaled-YOLOv4",
    arXiv:2011.08036, 2020. There the convolution before a layer with new_coords is logistic, so that its map has
    probabilities; here it is linear, so that all maps have logits.
    """

    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float = 1.0
    new_coords: bool = False

    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "scale_x_y": 1.0, "new_coords": False}
    passes_on: ClassVar[bool] = True
    section: ClassVar[str] = "yolo"
    section_options: ClassVar[str] = "mask anchors classes num scale_x_y new_coords"
    training_options: ClassVar[str] = (
        "jitter ignore_thresh truth_thresh random max resize iou_thresh iou_thresh_kind iou_loss iou_normalizer "
        "obj_normalizer cls_normalizer delta_normalizer uc_normalizer max_delta label_smooth_eps nms_kind beta_nms "
        "beta1 objectness_smooth focal_loss counters_per_class show_details map track_history_size sim_thresh "
        "dets_for_track dets_for_show track_ciou_norm embedding_layer"
    )

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return before

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    def offsets(self, t: Tensor) -> Tensor:
        """Where boxes are centred in their cells, from 0 to 1 and, with another scale, a little beyond."""
        place = t.sigmoid()
        return place if self.scale_x_y == 1 else place * self.scale_x_y - (self.scale_x_y - 1) / 2

    def factors(self, t: Tensor) -> Tensor:
        """Sizes of boxes by those of their anchors."""
        return 4 * t.sigmoid().square() if self.new_coords else t.clamp(max=LARGEST_EXPONENT).exp()

    def of_factors(self, factors: Tensor) -> Tensor:
        """The inverse of `factors`."""
        factors = factors.clamp(min=1e-6)
        return (factors.sqrt() / 2).logit(eps=1e-3) if self.new_coords else factors.log()

    def by_anchor(self, raw: Tensor) -> Tensor:
        """A raw map (N, A * (5 + C), H, W) as float32 (N, A, 5 + C, H, W)."""
        n, _, height, width = raw.shape
        return raw.float().reshape(n, len(self.anchors), -1, height, width)

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        if option == "new_coords":
            return super().checked(option, value)
        if option == "scale_x_y":
            if type(value) not in (int, float) or not 0 < value <= LARGEST_SCALE:
                raise InputError(f"expected a number above 0, at most {LARGEST_SCALE}, got {shortened(value)}")
            return float(value)
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
        if count > len(anchors):  # files of five heads say less than there are, and mask those that are left, too
            raise section.error(f"num: {count}, but anchors has {len(anchors)} pairs", "num")
        mask = section.whole_numbers("mask", 0, len(anchors) - 1) or range(len(anchors))
        scale = section.number("scale_x_y", 1.0)
        if not 0 < scale <= LARGEST_SCALE:
            raise section.error(f"scale_x_y: expected a number above 0, at most {LARGEST_SCALE}", "scale_x_y")
        return cls(tuple(anchors[i] for i in mask), scale, bool(section.whole_number("new_coords", 0, 0, 1)))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        """Every yolo layer lists the anchors of all, from the finest scale on, and masks its own."""
        after = [layer.anchors for layer in layers[index + 1 :] if isinstance(layer, Yolo)]
        before = [layer.anchors for layer in layers[:index] if isinstance(layer, Yolo)]
        first = sum(map(len, after))
        anchors = [anchor for own in reversed([*before, self.anchors, *after]) for anchor in own]
        options: dict[str, object] = {
            "mask": ",".join(map(str, range(first, first + len(self.anchors)))),
            "anchors": ",  ".join(f"{_number(width)},{_number(height)}" for width, height in anchors),
            "classes": classes,
            "num": len(anchors),
        }
        options |= {} if self.scale_x_y == 1 else {"scale_x_y": _number(self.scale_x_y)}
        return options | ({"new_coords": 1} if self.new_coords else {})


def _is_anchor(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(side) in (int, float) and 0 < side <= sys.float_info.max for side in value)


def _number(value: float) -> str:
    """The shortest text that reads back to `value`; Darknet's own files write whole anchors without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))
