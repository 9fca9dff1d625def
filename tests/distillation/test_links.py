"""Which layer learns from which."""

from dataclasses import replace

import pytest

from detpress.detector.architecture import Architecture, build_architecture
from detpress.distillation.links import (
    Heads,
    check_classes,
    head_input,
    head_layers,
    head_links,
    heads_by_stride,
    named_links,
)
from detpress.errors import InputError

CLASSES = ("cat", "dog")


def network(name: str, image_size: int = 96, width: float = 0.125) -> Architecture:
    return build_architecture(name, CLASSES, image_size, width)


def test_a_head_is_its_last_two_convolutions_and_takes_what_is_before_them() -> None:
    whole, tiny = network("yolov3"), network("yolov3-tiny")
    assert [head_layers(whole, place) for place in range(3)] == [(80, 81), (92, 93), (104, 105)]
    assert [head_input(whole, place) for place in range(3)] == [79, 91, 103]
    assert [head_layers(tiny, place) for place in range(2)] == [(14, 15), (21, 22)]
    assert [head_input(tiny, place) for place in range(2)] == [13, 20]


def test_heads_of_the_same_stride_learn_from_each_other_whatever_the_sizes() -> None:
    whole, tiny = network("yolov3"), network("yolov3-tiny", 160)
    assert heads_by_stride(tiny, whole) == heads_by_stride(whole, tiny) == (Heads(0, 0), Heads(1, 1))
    only_stride_32 = replace(tiny, layers=tiny.layers[:17])
    assert heads_by_stride(whole, only_stride_32) == (Heads(0, 0),)


def test_heads_of_one_stride_learn_each_from_its_own() -> None:
    whole = network("yolov3")
    twice = replace(whole, layers=(*whole.layers[:83], *whole.layers[80:83]))
    assert twice.strides == (32, 32)
    assert heads_by_stride(twice, twice) == (Heads(0, 0), Heads(1, 1))
    assert heads_by_stride(twice, whole) == heads_by_stride(whole, twice) == (Heads(0, 0),)


def test_links_have_the_channels_of_both() -> None:
    links = head_links(network("yolov3", width=0.0625), network("yolov3", 160))
    assert [(link.student, link.teacher) for link in links] == [(79, 79), (91, 91), (103, 103)]
    assert [(link.channels, link.teacher_channels) for link in links] == [(32, 64), (16, 32), (8, 16)]


def test_links_may_be_named() -> None:
    whole, tiny = network("yolov3"), network("yolov3-tiny")
    [link] = named_links(tiny, whole, {"layers.8": "layers.61"})
    assert (link.student, link.teacher, link.channels, link.teacher_channels) == (8, 61, 32, 64)
    with pytest.raises(InputError, match=r"^links: 'layers\.99' is no layer that computes a map"):
        named_links(tiny, whole, {"layers.99": "layers.61"})
    with pytest.raises(InputError, match=r"^links\.layers\.8: 'layers\.83' is no layer that computes a map"):
        named_links(tiny, whole, {"layers.8": "layers.83"})


def test_classes_in_another_order_and_strides_that_do_not_meet_are_refused() -> None:
    tiny = network("yolov3-tiny")
    with pytest.raises(
        InputError,
        match=r"^teacher: knows the classes dog, cat; expected cat, dog, in this order, as the student does$",
    ):
        check_classes(tiny, replace(tiny, classes=("dog", "cat")))
    only_stride_32 = replace(tiny, layers=tiny.layers[:17])
    only_stride_16 = replace(tiny, layers=(*tiny.layers[:8], *tiny.layers[8:9], *tiny.layers[22:]))
    with pytest.raises(
        InputError, match=r"^teacher: has heads of strides \[16\]; expected one of the student's, \[32\]$"
    ):
        heads_by_stride(only_stride_32, only_stride_16)
