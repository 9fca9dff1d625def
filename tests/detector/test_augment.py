"""Random changes of a batch: the boxes stay on the objects."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detpress.detector.images import GREY
from detpress.training.augment import LEAST_VISIBLE, augment, semicircle, way_back
from detpress.training.config import Augmentation
from detpress.training.loss import Targets

SIDE = 96
NOTHING = Augmentation(flip_horizontal=0, hue=0, saturation=0, value=0, scale=0, translate=0)

NO_OBJECTS = Targets(*(torch.zeros(0, dtype=torch.int64),) * 2, torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))


def changed(**options: float) -> Augmentation:
    return Augmentation(**{**NOTHING.model_dump(), **options})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(boxes: list[tuple[int, int, int, int]]) -> tuple[Tensor, Targets]:
    """One grey image a box, white inside the box: images (n, 3, SIDE, SIDE) and their targets; labels count up."""
    images = torch.full((len(boxes), 3, SIDE, SIDE), GREY / 255)
    for image, (x0, y0, x1, y1) in zip(images, boxes, strict=True):
        image[:, y0:y1, x0:x1] = 1.0
    index = torch.arange(len(boxes))
    return images, Targets(index, index.clone(), torch.tensor(boxes).float(), torch.zeros(len(boxes), dtype=torch.bool))


BOXES = [(10, 20, 50, 40), (48, 8, 72, 88), (30, 30, 60, 60), (5, 60, 45, 90)]


def white_area(image: Tensor) -> list[int]:
    """Edges of what is nearer to white than to grey."""
    rows, columns = torch.nonzero(image[0] > (1 + GREY / 255) / 2, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("side", [32, 160, 416])
def test_the_way_back_is_that_of_affine_grid_to_the_bit(side: int) -> None:
    factor = torch.rand(8, 2, generator=generator(1)) + 0.5
    factor[::2, 0] *= -1
    shift = (torch.rand(8, 2, generator=generator(2)) - 0.5) * side
    back = torch.zeros(8, 2, 3)
    back[:, 0, 0], back[:, 1, 1] = 1 / factor[:, 0], 1 / factor[:, 1]
    back[:, :, 2] = -shift / (side / 2) / factor
    expected = torch.nn.functional.affine_grid(back, [8, 3, side, side], align_corners=False)
    assert torch.equal(way_back(factor, shift, side, side), expected)


def test_nothing_asked_for_changes_nothing() -> None:
    images, targets = painted(BOXES)
    same, kept = augment(images, targets, NOTHING, combine=True, generator=generator())
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.boxes, targets.boxes)
    assert kept.label.tolist() == targets.label.tolist()


def test_flips_mirror_the_image_and_its_boxes() -> None:
    images, targets = painted(BOXES)
    across, moved = augment(images, targets, changed(flip_horizontal=1), combine=False, generator=generator())
    torch.testing.assert_close(across, images.flip(3), atol=1e-5, rtol=0)
    assert moved.boxes[0].tolist() == pytest.approx([SIDE - 50, 20, SIDE - 10, 40], abs=1e-4)
    down, moved = augment(images, targets, changed(flip_vertical=1), combine=False, generator=generator())
    torch.testing.assert_close(down, images.flip(2), atol=1e-5, rtol=0)
    assert moved.boxes[0].tolist() == pytest.approx([10, SIDE - 40, 50, SIDE - 20], abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_boxes_lie_on_the_objects_to_a_pixel_whatever_moves(seed: int) -> None:
    images, targets = painted(BOXES)
    config = changed(flip_horizontal=0.5, flip_vertical=0.5, scale=0.4, translate=0.2)
    moved, kept = augment(images, targets, config, combine=False, generator=generator(seed))
    for image, box in zip(kept.image.tolist(), kept.boxes, strict=True):
        assert box.tolist() == pytest.approx(white_area(moved[image]), abs=1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_mosaic_has_the_objects_of_four_images_at_half_their_size(seed: int) -> None:
    images, targets = painted(BOXES)
    mosaics, objects = augment(images, targets, changed(mosaic=1), combine=True, generator=generator(seed))
    for i in range(len(BOXES)):
        boxes, labels = objects.boxes[objects.image == i], objects.label[objects.image == i]
        assert len(boxes) == 4
        assert i in labels  # its own object is among them
        expected = (targets.boxes[labels][:, 2:] - targets.boxes[labels][:, :2]) / 2
        torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], expected)
        for x0, y0, x1, y1 in boxes.round().long().tolist():
            assert mosaics[i, :, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_picture_has_the_objects_of_both_each_as_much_as_it_shows(seed: int) -> None:
    """Image i is of the grey (i + 1) / 10 and has one object, of label i, where it stays."""
    _, targets = painted(BOXES)
    images = torch.stack([torch.full((3, SIDE, SIDE), (i + 1) / 10) for i in range(len(BOXES))])
    mixed, objects = augment(images, targets, changed(mixup=1), combine=True, generator=generator(seed))
    assert objects.weight is not None
    assert sorted(objects.label.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    for i in range(len(BOXES)):
        mine = objects.image == i
        [own, other], [shown, through] = objects.label[mine].tolist(), objects.weight[mine].tolist()
        assert own == i != other
        assert shown + through == pytest.approx(1)
        assert 0 < shown < 1
        assert mixed[i, 1, 7, 5].item() == pytest.approx(shown * (own + 1) / 10 + through * (other + 1) / 10, abs=1e-5)
        torch.testing.assert_close(objects.boxes[mine], targets.boxes[[own, other]], atol=1e-4, rtol=0)


def test_only_a_share_is_mixed_and_the_rest_is_learnt_whole() -> None:
    images, targets = painted(BOXES * 16)
    mixed, objects = augment(images, targets, changed(mixup=0.5), combine=True, generator=generator())
    assert objects.weight is not None
    boxes = torch.bincount(objects.image)
    assert 20 < (boxes == 2).sum() < 44
    assert boxes.unique().tolist() == [1, 2]
    alone = boxes == 1
    torch.testing.assert_close(mixed[alone], images[alone], atol=1e-5, rtol=0)
    assert (objects.weight[alone[objects.image]] == 1).all()
    assert (objects.weight[~alone[objects.image]] < 1).all()


def test_pictures_are_mixed_by_beta_of_one_and_a_half() -> None:
    """Its mean is 1/2, its variance 1/16, and 5.2 % of it lie below 0.1."""
    drawn = semicircle(100_000, generator())
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.003)
    assert drawn.var().item() == pytest.approx(1 / 16, rel=0.01)
    assert (drawn < 0.1).float().mean().item() == pytest.approx(0.0520, abs=0.003)


@pytest.mark.parametrize("option", ["mosaic", "mixup"])
def test_mosaics_and_mixtures_end_when_told(option: str) -> None:
    images, targets = painted(BOXES)
    same, objects = augment(images, targets, changed(**{option: 1}), combine=False, generator=generator())
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    assert objects.weight is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_object_mostly_moved_out_is_left_out(seed: int) -> None:
    boxes = [(0, 40, 20, 60)] * 8
    images, targets = painted(boxes)
    moved, kept = augment(images, targets, changed(translate=0.3), combine=False, generator=generator(seed))
    shown = (moved[:, 0] > (1 + GREY / 255) / 2).sum(dim=(1, 2)) / 400
    for i in range(len(boxes)):
        if abs(shown[i] - LEAST_VISIBLE) > 0.06:  # a column of pixels is a twentieth of the object
            assert (i in kept.image) == bool(shown[i] > LEAST_VISIBLE)
    assert kept.boxes.min() >= 0
    assert kept.boxes.max() <= SIDE


def test_grey_has_no_hue_and_colours_stay_colours() -> None:
    images = torch.rand(4, 3, SIDE, SIDE, generator=generator())
    images[0] = 0.4
    turned, _ = augment(images, NO_OBJECTS, changed(hue=0.5, saturation=0.9), combine=False, generator=generator())
    torch.testing.assert_close(turned[0], images[0], atol=1e-5, rtol=0)
    assert not torch.allclose(turned[1], images[1], atol=0.05)
    assert turned.min() >= 0
    assert turned.max() <= 1


def test_value_scales_the_brightness_within_its_limits() -> None:
    images = torch.full((64, 3, 32, 32), 0.5)
    scaled, _ = augment(images, NO_OBJECTS, changed(value=0.3), combine=False, generator=generator())
    factors = scaled.mean(dim=(1, 2, 3)) / 0.5
    assert 0.7 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.3


def test_the_generator_alone_decides() -> None:
    images, targets = painted(BOXES)
    config = Augmentation(mosaic=0.5)
    first = augment(images, targets, config, combine=True, generator=generator(7))
    torch.manual_seed(5)
    second = augment(images, targets, config, combine=True, generator=generator(7))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].boxes, second[1].boxes)
