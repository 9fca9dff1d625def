import numpy as np

from detpress.voc.coordinates import edges_from_voc, voc_from_edges


def test_voc_counts_from_1_and_includes_the_last_pixel() -> None:
    one_pixel, whole_image = [1, 1, 1, 1], [1, 1, 640, 480]
    edges = edges_from_voc(np.array([one_pixel, whole_image], float))
    assert edges.tolist() == [[0, 0, 1, 1], [0, 0, 640, 480]]
    assert voc_from_edges(edges).tolist() == [one_pixel, whole_image]


def test_whole_numbers_stay_whole() -> None:
    assert str(voc_from_edges(np.array([0, 0, 1, 1])).tolist()) == "[1, 1, 1, 1]"


def test_no_boxes() -> None:
    assert edges_from_voc(np.zeros((0, 4))).shape == voc_from_edges(np.zeros((0, 4))).shape == (0, 4)
