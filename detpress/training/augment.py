"""Random changes of a whole batch at once, on whatever device it is; the boxes follow.

Every number is drawn from one generator on the CPU, so that the same seed gives the same batch on every device.

Mixup is that of Zhang et al., "Bag of Freebies for Training Object Detection Neural Networks", arXiv:1902.04103, 2019:
pictures are laid over each other as they are, neither moved nor scaled for it, and the objects of both are learnt, each
as much as its picture shows. Here it happens after a mosaic and before all else, among the images of a batch.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.images import GREY
from detpress.training.config import Augmentation
from detpress.training.loss import Targets

VERSION = 1  # raised when the same generator gives other images or boxes: it enters every stage's key
LEAST_VISIBLE = 0.2  # of an object's area; what shows less is left out
LEAST_SIDE = 2.0  # pixels

# RGB to luma and two colour differences (YIQ, as NTSC defined it), where a change of hue is a rotation.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def augment(
    images: Tensor, targets: Targets, config: Augmentation, combine: bool, generator: torch.Generator
) -> tuple[Tensor, Targets]:
    """images: float32 (N, 3, H, W) in [0, 1]. Mosaic and mixup, then flip, scale, shift, then hue, saturation, value.

    combine: whether mosaics and mixtures are made at this time of the training.
    """
    if combine and config.mosaic:
        images, targets = _mosaic(images, targets, config.mosaic, generator)
    if combine and config.mixup and len(images) > 1:
        images, targets = _mixup(images, targets, config.mixup, generator)
    images, targets = _move(images, targets, config, generator)
    return _recolour(images, config, generator), targets


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _mosaic(images: Tensor, targets: Targets, share: float, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Replaces a share of the images by four images of the batch at half their size, the own one among them."""
    count, height, width = len(images), *images.shape[-2:]
    chosen = torch.rand(count, generator=generator) < share
    partners = torch.stack([torch.arange(count), *(torch.randperm(count, generator=generator) for _ in range(3))])
    changed, sources = (indices.to(images.device) for indices in (chosen.nonzero()[:, 0], partners[:, chosen]))
    half = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    result = images.clone()
    parts = [targets.take(~chosen.to(targets.image.device)[targets.image])]
    for quadrant in range(4):
        top, left = height // 2 * (quadrant // 2), width // 2 * (quadrant % 2)
        result[changed, :, top : top + height // 2, left : left + width // 2] = half[sources[quadrant]]
        where, which = (targets.image == sources[quadrant][:, None]).nonzero(as_tuple=True)
        taken = targets.take(which)
        shift = taken.boxes.new_tensor([left, top, left, top])
        parts.append(replace(taken, image=changed[where], boxes=taken.boxes / 2 + shift))
    return result, _join(parts)


def _mixup(images: Tensor, targets: Targets, share: float, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Has another image of the batch shine through a share of the images; the objects of both are weighted."""
    count, device = len(images), images.device
    chosen = torch.rand(count, generator=generator) < share
    own = torch.where(chosen, semicircle(count, generator), torch.ones(count)).to(device)
    ring = torch.randperm(count, generator=generator).to(device)
    partner = torch.empty_like(ring).scatter_(0, ring, ring.roll(-1))  # never the image itself
    mixed = own[:, None, None, None] * images + (1 - own)[:, None, None, None] * images[partner]
    shown_in = partner.argsort()  # whose partner each image is
    under = targets.take(chosen.to(device)[shown_in[targets.image]])
    beneath = shown_in[under.image]
    return mixed, _join(
        [replace(targets, weight=own[targets.image]), replace(under, image=beneath, weight=1 - own[beneath])]
    )


def semicircle(count: int, generator: torch.Generator) -> Tensor:
    """Numbers of the distribution Beta(1.5, 1.5): how far to the right the points of a disc lie, from 0 to 1."""
    radius, angle = torch.rand(count, generator=generator).sqrt(), torch.rand(count, generator=generator) * 2 * math.pi
    return (1 + radius * angle.cos()) / 2


def _join(parts: list[Targets]) -> Targets:
    weights = [part.weight for part in parts if part.weight is not None]
    return Targets(
        torch.cat([part.image for part in parts]),
        torch.cat([part.label for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.difficult for part in parts]),
        torch.cat(weights) if weights else None,
    )


def _move(images: Tensor, targets: Targets, config: Augmentation, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Flips, scales about the centre, and shifts each image by its own numbers, in one resampling."""
    count, device = len(images), images.device
    sides = torch.tensor(images.shape[:-3:-1])  # width and height
    scale = _uniform(count, 1 - config.scale, 1 + config.scale, generator)
    shift = _uniform(2 * count, -config.translate, config.translate, generator).view(count, 2) * sides
    mirrored = torch.rand(count, 2, generator=generator) < torch.tensor([config.flip_horizontal, config.flip_vertical])
    factor = torch.where(mirrored, -scale[:, None], scale[:, None])  # (N, 2), of x and y about the centre
    grid = way_back(factor, shift, *images.shape[-2:]).to(device)
    grey = GREY / 255
    moved = functional.grid_sample(images - grey, grid, mode="bilinear", align_corners=False).add_(grey)
    factor, shift = factor.to(device)[targets.image], shift.to(device)[targets.image]
    middle = (sides / 2).to(device)
    corners = (targets.boxes.view(-1, 2, 2) - middle) * factor[:, None] + middle + shift[:, None]
    whole = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    visible = whole.clamp(min=0).minimum(sides.to(device, whole.dtype).repeat(2))
    size, whole_size = visible[:, 2:] - visible[:, :2], whole[:, 2:] - whole[:, :2]
    kept = (size.prod(dim=1) > LEAST_VISIBLE * whole_size.prod(dim=1)) & (size.amin(dim=1) >= LEAST_SIDE)
    return moved, replace(targets, boxes=visible).take(kept)


def way_back(factor: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the result lies in the source, in units of half of each side about the centre: (N, H, W, 2).

    factor: (N, 2), of x and y about the centre. shift: (N, 2), in pixels. What `affine_grid` gives, to the bit, in a
    tenth of the time, since nothing is turned.
    """
    columns, rows = (
        torch.linspace(-1, 1, side) * (side - 1) / side * (1 / factor)[:, axis, None]
        + (-shift / (side / 2) / factor)[:, axis, None]
        for axis, side in enumerate((width, height))
    )
    return torch.stack([columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=3)


def _recolour(images: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotates the hue, scales the saturation and the brightness: one 3x3 matrix an image, in YIQ."""
    count = len(images)
    angle = _uniform(count, -config.hue, config.hue, generator) * 2 * math.pi
    saturation = _uniform(count, 1 - config.saturation, 1 + config.saturation, generator)
    value = _uniform(count, 1 - config.value, 1 + config.value, generator)
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos() * saturation
    turn[:, 2, 1] = angle.sin() * saturation
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(_YIQ) @ turn @ _YIQ * value[:, None, None]
    return torch.einsum("nij,njhw->nihw", matrix.to(images.device), images).clamp_(0, 1)
