"""Every plugin that ends in int8, run to its end on one detector: mAP in each runtime, a table in Markdown.

    python benchmarks/int8_plugins.py BUNDLE DEVKIT [--train 128] [--test 200] [--epochs 1] [--plugins PLUGIN ...]

BUNDLE: a float detector of the data set's classes; DEVKIT: Pascal VOC's layout with the image sets `train` and `val`.
Trained and calibrated (64 images, or all if those are fewer) on the first `--train` images of the one, scored on every
third of the other until there are `--test`; `--train` so small that a row takes minutes shows that a plugin does its
work and what rounding costs, not what its training could win. NNI's plugins are followed by `deploy.int8`, a scale a
filter. Every run is an ordinary recipe, so what was computed before is taken from the store.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from detpress.errors import StageError
from detpress.recipe.file import read_recipe
from detpress.run.chain import run_chain
from detpress.run.initial_model import recipe_classes
from detpress.run.stage import Stage
from detpress.run.store import open_store
from detpress.voc.named import open_data

RUNTIMES = ("torch", "openvino", "onnxruntime")
CALIBRATION = 64  # images
TRAINED = ("inc.qat", "nni.qat", "nni.lsq", "nni.lsq_plus")
PLUGINS = ("inc.static_int8", "nni.ptq", "nni.qat", "nni.lsq", "inc.qat", "nni.lsq_plus", "inc.autotune")


class Quiet:
    """A listener that says on stderr which stage is made."""

    def begin(self, index: int, total: int, name: str) -> None:
        print(name, file=sys.stderr)

    def waiting(self) -> None:
        print("another process makes this stage", file=sys.stderr)

    def progress(self, what: str, done: int, total: int) -> None:
        """Stages are few; their steps are not told."""

    def end(self, stage: Stage) -> None:
        print(f"{stage.form}, mAP {stage.metrics['map']:.4f}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("devkit", type=Path)
    parser.add_argument("--train", type=int, default=128, help="images")
    parser.add_argument("--test", type=int, default=200, help="images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--plugins", nargs="+", default=PLUGINS, choices=PLUGINS)
    options = parser.parse_args()
    print(f"| plugin | {' | '.join(RUNTIMES)} | seconds |")
    print(f"|---|{'--:|' * (len(RUNTIMES) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        few = few_images(options.devkit.absolute(), Path(folder) / "few", options)
        for plugin in options.plugins:
            try:
                stages = run(plugin, few, Path(folder) / "recipe.yaml", options)
            except StageError as error:
                print(f"| `{plugin}` | failed: {error} |", flush=True)
                continue
            scores = [f"{stages[-1].metrics['map_by_runtime'][runtime]:.4f}" for runtime in RUNTIMES]
            seconds = sum(stage.seconds for stage in stages)
            print(f"| `{plugin}` | {' | '.join(scores)} | {seconds:.0f} |", flush=True)


def few_images(devkit: Path, few: Path, options: argparse.Namespace) -> Path:
    """The devkit by links, with fewer images in its sets `train` and `val`."""
    sets = few / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for name in ("Annotations", "JPEGImages"):
        (few / name).symlink_to(devkit / name)
    for name, chosen in (("train", slice(options.train)), ("val", slice(0, 3 * options.test, 3))):
        lines = (devkit / "ImageSets" / "Main" / f"{name}.txt").read_text(encoding="utf-8").split()
        (sets / f"{name}.txt").write_text("\n".join(lines[chosen]) + "\n", encoding="utf-8")
    return few


def run(plugin: str, devkit: Path, path: Path, options: argparse.Namespace) -> list[Stage]:
    """The stages of the plugin's recipe, which is written to `path`."""
    training = {"epochs": options.epochs, "learning_rate": options.learning_rate, "ema": 0.0}
    config: dict[str, Any] = {}
    if plugin in TRAINED:
        config = training if plugin == "inc.qat" else {"training": training}
    if plugin in ("inc.static_int8", "inc.autotune", "inc.qat", "nni.ptq"):
        config |= {"calibration_images": min(CALIBRATION, options.train)}
    deploy = {"deploy.int8": {"calibration_images": min(CALIBRATION, options.train)}}
    document = {
        "name": plugin,
        "data": {"root": str(devkit), "train": "train", "val": "val", "test": "val"},
        "model": {"weights": str(options.bundle.absolute())},
        "chain": [{plugin: config}, *([deploy] if plugin.startswith("nni.") else [])],
        "measure": {"runtimes": list(RUNTIMES), "memory": False},
    }
    path.write_text(yaml.safe_dump(document))
    recipe = read_recipe(path)
    return list(run_chain(recipe, open_data(recipe.data.root, recipe_classes(recipe)), open_store(), Quiet()))


if __name__ == "__main__":
    main()
