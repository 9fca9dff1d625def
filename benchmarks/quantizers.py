"""NNI's quantizers at 8, 4, 2 and 1 bits on the shared detector, all with the same training: a table in Markdown.

    python benchmarks/quantizers.py [--epochs 8] [--cells BCCD --cells-weights BUNDLE] [--bits 8 4 2 1] > quantizers.md

Weights and activations of a row have the same number of bits; the first convolution and the heads stay in float. mAP
is simulated: computed in float, with the values that so many bits allow. Packed: bytes of the model if a weight took
no more than its bits; the float model's are beside it. Seconds: of the stage, on this machine. What a method cannot
do is left out and said below the table. Every run is an ordinary recipe, so what was computed before is taken from the
store.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from detpress.errors import StageError
from detpress.recipe.file import Recipe, read_recipe
from detpress.run.chain import run_chain
from detpress.run.initial_model import recipe_classes
from detpress.run.stage import Stage
from detpress.run.store import open_store
from detpress.voc.named import open_data

DIGITS_AUGMENTATION = {"flip_horizontal": 0.0, "hue": 0.5}
CELLS_AUGMENTATION = {"flip_vertical": 0.5, "saturation": 0.3, "value": 0.2, "scale": 0.2}
METHODS: dict[str, tuple[int, ...]] = {  # bits that it can do, symmetric weights unless there is 1 bit
    "nni.ptq": (8, 4, 2),
    "nni.qat": (8, 4, 2),
    "nni.lsq": (8, 4, 2),
    "nni.lsq_plus": (8, 4, 2, 1),
    "nni.dorefa": (8, 4, 2, 1),
    "nni.bnn": (1,),
}


class Quiet:
    """A listener that says on stderr which stage is made."""

    def __init__(self, what: str) -> None:
        self.what = what

    def begin(self, index: int, total: int, name: str) -> None:
        print(f"{self.what}: {name}", file=sys.stderr)

    def waiting(self) -> None:
        print(f"{self.what}: another process makes this stage", file=sys.stderr)

    def progress(self, what: str, done: int, total: int) -> None:
        """Stages are few; their steps are not told."""

    def end(self, stage: Stage) -> None:
        print(f"{self.what}: {stage.form}, mAP {stage.metrics['map']:.4f}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="of training, for every method that trains")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cells", metavar="DEVKIT", help="the blood cells' folder; left out by default")
    parser.add_argument("--cells-weights", metavar="BUNDLE", help="a network trained on them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data_sets: dict[str, dict[str, Any]] = {
        "digits": {"root": "builtin:digits", "weights": "builtin:digits", "augmentation": DIGITS_AUGMENTATION}
    }
    if options.cells:
        root, weights = Path(options.cells).absolute(), Path(options.cells_weights).absolute()
        data_sets["blood cells"] = {"root": str(root), "weights": str(weights), "augmentation": CELLS_AUGMENTATION}
    print(
        f"Epochs: {options.epochs}, learning rate {options.learning_rate:g}, seed {options.seed}, "
        f"{torch.get_num_threads()} threads of a CPU; mAP simulated, on the test set.\n"
    )
    print("| data | method | bits | mAP | x float | packed, bytes | x float | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    failed = []
    for data, settings in data_sets.items():
        for method in options.methods:
            for bits in options.bits:
                if bits in METHODS[method]:
                    try:
                        print(row(data, method, bits, settings, options), flush=True)
                    except StageError as error:
                        failed.append(f"{data}, {method} at {bits} bits: {error}")
    print("\nOne symmetric bit would be 0 alone: PTQ, QAT and LSQ begin at 2 bits, LSQ+ has affine weights at 1.")
    print("BNN has no other bits.")
    for line in failed:
        print(f"\nFailed: {line}")


def row(data: str, method: str, bits: int, settings: dict[str, Any], options: argparse.Namespace) -> str:
    recipe = recipe_of(method, bits, settings, options)
    stages = list(run_recipe(recipe, f"{data}, {method}, {bits} bits"))
    before, after = stages[0].metrics, stages[1].metrics
    whole, packed = before["storage_bytes"]["dense_fp32"], after["storage_bytes"]["packed"]
    return (
        f"| {data} | {method} | {bits} | {after['map']:.4f} | {after['map'] / before['map']:.2f} | {packed:,} "
        f"| {packed / whole:.3f} | {stages[1].seconds:.0f} |"
    )


def recipe_of(method: str, bits: int, settings: dict[str, Any], options: argparse.Namespace) -> Recipe:
    config: dict[str, Any] = {} if method == "nni.bnn" else {"weight_bits": bits, "activation_bits": bits}
    if method == "nni.lsq_plus" and bits == 1:
        config["weight_scheme"] = "affine"
    if method != "nni.ptq":
        config["training"] = {
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "augmentation": settings["augmentation"],
        }
    document = {
        "name": f"{method}-{bits}",
        "seed": options.seed,
        "data": {"root": settings["root"]},
        "model": {"weights": settings["weights"]},
        "chain": [{method: config}],
        "measure": {"runtimes": ["torch"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(document))
        return read_recipe(path)


def run_recipe(recipe: Recipe, what: str) -> Iterator[Stage]:
    devkit = open_data(recipe.data.root, recipe_classes(recipe))
    yield from run_chain(recipe, devkit, open_store(), Quiet(what))


if __name__ == "__main__":
    main()
