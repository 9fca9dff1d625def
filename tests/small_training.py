"""What tests of steps that train have in common: few images, a workbench over them, and what ends it half-way."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from detpress.detector.model import Model
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits


class KilledError(Exception):
    """Ends a stage where it is."""


def few_digits(folder: Path, images: int) -> Devkit:
    """That many generated training images, below `folder`."""
    write_digits(folder / "devkit", {"train": images})
    return open_devkit(folder / "devkit")


def small_bench(
    devkit: Devkit, model: Model, scratch: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> StageWorkbench:
    scratch.mkdir(exist_ok=True)
    log, data = logging.getLogger("tests.small_training"), Data(root=str(devkit.root))
    return StageWorkbench(0, scratch, log, progress, devkit, data, Measure(), architecture=model.architecture)


def same_bits(one: Model, other: Model) -> bool:
    """Of all tensors and of the masks."""
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
        and one.masks.keys() == other.masks.keys()
        and all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())
    )
