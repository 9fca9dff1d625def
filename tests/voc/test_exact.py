"""Boxes between layouts: the same bits come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detpress.voc.exact import coco_from_voc, voc_from_coco, voc_from_yolo, yolo_from_voc

PIXELS = st.floats(-500, 9000).filter(lambda number: abs(number) > 1e-6)
DECIMALS = st.decimals(-500, 9000, places=4).map(float)
SIDES = st.integers(1, 9000)


@st.composite
def boxes(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> tuple[float, ...]:
    (left, right), (top, bottom) = (sorted((draw(numbers), draw(numbers))) for _ in range(2))
    return left, top, right, bottom


@given(boxes(PIXELS) | boxes(DECIMALS))
def test_a_box_of_voc_comes_back_from_cocos_numbers(box: tuple[float, ...]) -> None:
    assert voc_from_coco(coco_from_voc(box)) == box


@given(boxes(PIXELS) | boxes(DECIMALS), SIDES, SIDES)
def test_a_box_of_voc_comes_back_from_yolos_text(box: tuple[float, ...], width: int, height: int) -> None:
    assert voc_from_yolo(yolo_from_voc(box, width, height), width, height) == box


def test_numbers_are_written_as_short_as_they_can_be() -> None:
    assert coco_from_voc((1.1, 11.0, 10.3, 20.0)) == ("0.1", "10", "10.2", "10")
    assert yolo_from_voc((1.0, 1.0, 50.0, 80.0), 100, 80) == ("0.25", "0.5", "0.5", "1")


@pytest.mark.parametrize(
    ("numbers", "box"),
    [(["0", "0", "1", "1"], (1.0, 1.0, 1.0, 1.0)), (["9.5", "19.25", "30", "4.05e1"], (10.5, 20.25, 39.5, 59.75))],
)
def test_cocos_edges_count_from_0_and_vocs_pixels_from_1(numbers: list[str], box: tuple[float, ...]) -> None:
    assert voc_from_coco(numbers) == box
