"""A model, ready to run, whatever executes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Runtime:
    """A model, ready to run.

    run: images float32 (N, 3, H, W) in [0, 1], of the architecture's size -> raw maps as of `Network.forward`.
    threads: CPU threads that one run may use.
    precision: what the convolutions are really computed in, as the runtime tells: `fp32`, `fp32+int8`, `binary+fp32`.
    """

    name: str
    run: Callable[[Tensor], tuple[Tensor, ...]]
    threads: int
    precision: str


def in_batches(run: Callable[[Tensor], tuple[Tensor, ...]], batch: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """From a function of exactly `batch` images, one of any number: the last batch is filled up with zeros."""

    def run_any(images: Tensor) -> tuple[Tensor, ...]:
        if len(images) == batch:
            return run(images)
        missing = -len(images) % batch
        filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        found = [run(chunk) for chunk in torch.split(filled, batch)]
        return tuple(torch.cat(maps)[: len(images)] for maps in zip(*found, strict=True))

    return run_any


def precision_name(convolutions: Sequence[str]) -> str:
    """The different precisions among those of the convolutions, such as `fp32+int8`."""
    return "+".join(sorted(set(convolutions)))
