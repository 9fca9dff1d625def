"""The names of the ways to compute average precision; `detpress.voc.evaluate` says what each is."""

from typing import Literal, get_args

Protocol = Literal["voc07", "voc10", "coco", "salvi2020"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


def protocol_name(protocol: Protocol, iou: float) -> str:
    """Which average, at which IoU, by which notion of a box: `voc07@0.5+1px`."""
    return "coco@0.5:0.95" if protocol == "coco" else f"{protocol}@{iou:g}+1px"
