"""Images a second of a training as users run it, beside its bare step.

    python benchmarks/trainer_speed.py [--data builtin:digits] [--width 0.125] [--image-size 160] [--mosaic 0.5]

The bare step is forward pass, backward pass from the mean square of the raw maps, and PyTorch's AdamW, in the trainer's
precision, on one batch that stays. The training has all else: reading, augmentation, loss, clipping, moving average,
checkpoints, progress. They take turns within one training, round by round, so that whatever else the machine does falls
on both; a figure is the median of its rounds, and on a CPU counts the processor's seconds, of all threads.
"""

import argparse
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.model import new_model
from detpress.training.config import Augmentation, TrainingConfig
from detpress.training.dataset import TrainingSet
from detpress.training.step import steps_per_epoch
from detpress.training.trainer import TrainingContext, automatic_precision, fit
from detpress.voc.named import open_data

GPU = torch.cuda.is_available()


class EnoughError(Exception):
    """Ends the training after the last round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:digits", help="what a recipe's data.root may be")
    parser.add_argument("--split", default="train", help="the image set that is trained on")
    parser.add_argument("--width", type=float, default=0.125, help="multiplies the filters of every layer")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--mosaic", type=float, default=0.0, help="share of images made of four")
    parser.add_argument("--steps", type=int, default=6, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    options = parser.parse_args()
    devkit = open_data(options.data)
    architecture = build_architecture("yolov3", devkit.classes, options.image_size, options.width)
    bare = bare_step(architecture, options.batch)
    augmentation = Augmentation(mosaic=options.mosaic)
    images = len(TrainingSet(devkit, options.split, architecture))
    one_epoch = TrainingConfig(epochs=1, batch_size=options.batch, augmentation=augmentation)
    warm = steps_per_epoch(images, one_epoch)  # after the first epoch all images were read
    epochs = 2 + options.rounds * options.steps // warm
    trained: list[float] = []
    alone: list[float] = []
    began = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal began
        if done < warm or (done - warm) % options.steps:
            return
        if done > warm:
            trained.append(seconds() - began)
            if len(trained) == options.rounds:
                raise EnoughError
        began = seconds()
        for _ in range(options.steps):
            bare()
        alone.append(seconds() - began)
        began = seconds()

    with tempfile.TemporaryDirectory() as scratch:
        context = TrainingContext(devkit, options.split, 0, Path(scratch), logging.getLogger(__name__), progress)
        with contextlib.suppress(EnoughError):
            fit(new_model(architecture, 0), one_epoch.model_copy(update={"epochs": epochs}), context)
    seen = options.steps * options.batch
    found = {
        "bare": seen / median(alone),
        "training": seen / median(trained),
        "share": median(one / other for one, other in zip(alone, trained, strict=True)),
    }
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"YOLOv3, width {options.width:g}, {options.image_size} pixels, batch {options.batch}: bare step "
        f"{found['bare']:.1f} images/s, training {found['training']:.1f} ({found['share']:.1%})"
    )


def seconds() -> float:
    if GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def bare_step(architecture: Architecture, batch: int) -> Callable[[], None]:
    """A function that takes one on a network of its own."""
    device = torch.device("cuda" if GPU else "cpu")
    network = new_model(architecture, 0).network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.rand(batch, 3, architecture.image_size, architecture.image_size, device=device)
    in_16_bits = automatic_precision(GPU) == "bf16-mixed"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_16_bits):
            maps = network(images)
        optimizer.zero_grad()
        torch.stack([raw.float().square().mean() for raw in maps]).sum().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
