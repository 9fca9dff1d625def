"""Boxes between VOC's coordinates and those of other layouts, without a bit lost.

Sums and quotients are computed with decimal numbers and fractions, from the digits that stand in the file, and rounded
once, to float64. Whoever writes a box writes the digits that are read back as the same bits: for VOC's 1.1 COCO's 0.1,
not 0.10000000000000009.
"""

from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction

DECIMALS = (6, 9, 12, 15, 18, 24, 36, 60)  # places that are tried in YOLO's text
SUMS = Context(prec=100)  # digits, more than a sum of float64 of pixels has

Box = tuple[float, float, float, float]


def voc_from_yolo(numbers: Sequence[str], width: int, height: int) -> Box:
    """numbers: centre x, centre y, width, height as fractions of a picture of `width` x `height` pixels."""
    x, y, box_width, box_height = map(Fraction, numbers)
    left, right = (x - box_width / 2) * width, (x + box_width / 2) * width
    top, bottom = (y - box_height / 2) * height, (y + box_height / 2) * height
    return float(left + 1), float(top + 1), float(right), float(bottom)


def yolo_from_voc(box: Sequence[float], width: int, height: int) -> tuple[str, ...]:
    """The inverse of `voc_from_yolo`."""
    left, top, right, bottom = Fraction(box[0]) - 1, Fraction(box[1]) - 1, Fraction(box[2]), Fraction(box[3])
    exact = (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )
    numbers: tuple[str, ...] = ()
    for places in DECIMALS:
        numbers = tuple(_decimal(number, places) for number in exact)
        if voc_from_yolo(numbers, width, height) == tuple(box):
            break
    return numbers


def _decimal(number: Fraction, places: int) -> str:
    """The number, rounded to so many decimal places, without zeros at the end."""
    digits = round(abs(number) * 10**places)
    whole, rest = divmod(digits, 10**places)
    text = f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
    return f"-{text}" if number < 0 and digits else text


def voc_from_coco(numbers: Sequence[str]) -> Box:
    """numbers: x, y, width, height in pixels, edges counted from 0, as JSON has them."""
    x, y, width, height = map(Decimal, numbers)
    left, top = SUMS.add(x, Decimal(1)), SUMS.add(y, Decimal(1))
    return float(left), float(top), float(SUMS.add(x, width)), float(SUMS.add(y, height))


def coco_from_voc(box: Sequence[float]) -> tuple[str, ...]:
    """The inverse of `voc_from_coco`."""
    left, top, right, bottom = (Decimal(repr(number)) for number in box)
    x, y = (SUMS.subtract(first, Decimal(1)) for first in (left, top))
    return tuple(_shortest(number) for number in (x, y, SUMS.subtract(right, x), SUMS.subtract(bottom, y)))


def _shortest(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
