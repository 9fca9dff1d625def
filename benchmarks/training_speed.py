"""Images a second in training, by memory format, precision and torch.compile.

    python benchmarks/training_speed.py [--width 0.125] [--image-size 160] [--batch 16] [--no-compile] [--json]

One step is what the trainer does with a batch: augmentation, forward pass, loss, backward pass, AdamW and the moving
average, on random images with ten objects each. The cases take turns, round by round, so that whatever else the
machine does falls on all of them; a case's figure is the median of its rounds. Compiling comes before, and is timed.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.network import Network
from detpress.training.augment import augment
from detpress.training.config import TrainingConfig
from detpress.training.loss import Targets, yolo_loss

OBJECTS = 10  # an image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.125, help="multiplies the filters of every layer")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="leaves torch.compile out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    architecture = build_architecture("yolov3", [f"class{i}" for i in range(20)], options.image_size, options.width)
    cases = {
        (precision, memory, compiled): training(architecture, precision, memory, compiled, options.batch)
        for compiled, precision, memory in itertools.product(
            (False,) if options.no_compile else (False, True),
            ("float32", "bfloat16"),
            ("contiguous", "channels_last"),
        )
    }
    first = {case: seconds(step) for case, step in cases.items()}
    rates: dict[tuple[str, str, bool], list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case, step in cases.items():
            taken = sum(seconds(step) for _ in range(options.steps))
            rates[case].append(options.steps * options.batch / taken)
    rows = [
        {
            "precision": precision,
            "memory_format": memory,
            "compiled": compiled,
            "images_per_second": median(rates[precision, memory, compiled]),
            "first_step_seconds": first[precision, memory, compiled],
        }
        for precision, memory, compiled in cases
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows, options)


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"YOLOv3, width {options.width:g}, {options.image_size} pixels, batch {options.batch}, {device}")
    print(f"{'precision':<10}{'memory format':<15}{'execution':<15}{'images/s':>9}{'x first':>9}{'first step, s':>15}")
    for row in rows:
        execution = "torch.compile" if row["compiled"] else "eager"
        rate = row["images_per_second"]
        print(
            f"{row['precision']:<10}{row['memory_format']:<15}{execution:<15}{rate:9.1f}"
            f"{rate / rows[0]['images_per_second']:9.2f}{row['first_step_seconds']:15.1f}"
        )


def training(architecture: Architecture, precision: str, memory: str, compiled: bool, batch: int) -> Callable[[], None]:
    """A function that trains a network of its own for one step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory_format = torch.channels_last if memory == "channels_last" else torch.contiguous_format
    config = TrainingConfig(epochs=1)
    torch.manual_seed(0)
    network = Network(architecture).to(device, memory_format=memory_format).train()
    average = AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    run: nn.Module = torch.compile(network) if compiled else network
    side = architecture.image_size
    raw = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    corner = torch.rand(batch * OBJECTS, 2) * side * 0.7
    boxes = torch.cat([corner, corner + side * (0.05 + 0.25 * torch.rand(batch * OBJECTS, 2))], dim=1)
    image = torch.arange(batch).repeat_interleave(OBJECTS)
    label = torch.randint(0, len(architecture.classes), (batch * OBJECTS,))
    targets = Targets(image, label, boxes, torch.zeros(len(label), dtype=torch.bool)).to(torch.device(device))
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        pixels = raw.to(device).float() / 255
        images, objects = augment(pixels, targets, config.augmentation, combine=False, generator=generator)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            maps = run(images.contiguous(memory_format=memory_format))
        yolo_loss(maps, objects, architecture, config).total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
