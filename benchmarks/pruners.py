"""Every pruner of NNI at the same sizes, with the same fine-tuning: what is left of the mAP, and what it costs.

    python benchmarks/pruners.py [--data builtin:digits] [--weights builtin:digits] [--removed 0.5 0.75]
                                 [--epochs 8] [--pruners nni.l1norm ...] [--json]

--data: a VOC devkit; --weights: a trained bundle on it, such as the last of `detpress run blood-cells`. Each row is a
chain of the pruner, nni.speedup and train.finetune, run by `detpress run` and measured like any other; the table is
Markdown. nni.level masks single weights and takes nothing out, so its row is another thing: the same share of the
weights at zero, in a network of the full size. `epochs` counts those that a pruner trains for its masks, and the
fine-tuning; `seconds` is the time of making the stages, measuring left out, whichever run made them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

TRAINED: dict[str, dict[str, Any]] = {  # options of those that train while they choose
    "nni.taylor": {"schedule": {"kind": "one_shot", "epochs_per_step": 1}},
    "nni.slim": {"schedule": {"kind": "one_shot", "epochs_per_step": 2}},
    "nni.movement": {"schedule": {"kind": "agp", "steps": 3}, "cooldown": 1},
}
PRUNERS = ("nni.level", "nni.l1norm", "nni.l2norm", "nni.fpgm", *TRAINED)
AUGMENTATION = {"builtin:digits": {"flip_horizontal": 0.0, "hue": 0.5}}
MIRRORED = {"flip_vertical": 0.5}  # other data: photographs without an upside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:digits", help="a VOC devkit's folder (default builtin:digits)")
    parser.add_argument("--weights", default="builtin:digits", help="a bundle trained on it (default builtin:digits)")
    parser.add_argument("--removed", type=float, nargs="+", default=[0.5, 0.75], help="shares of the parameters")
    parser.add_argument("--epochs", type=int, default=8, help="of the fine-tuning (default 8)")
    parser.add_argument("--pruners", nargs="+", choices=PRUNERS, default=PRUNERS, help="all by default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = []
    for share in options.removed:
        for pruner in options.pruners:
            result = run(chain(pruner, share, options), options)
            if not rows:
                rows.append(row("as it was", 0.0, result, 0, last=0))
            rows.append(row(pruner, share, result, epochs(pruner) + options.epochs))
    print(json.dumps(rows, indent=1) if options.json else table(rows, result["protocol"]))


def chain(pruner: str, share: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    training = {"augmentation": AUGMENTATION.get(options.data, MIRRORED)}
    finetune = {"train.finetune": {"epochs": options.epochs, **training}}
    if pruner == "nni.level":
        return [{pruner: {"sparsity": share}}, finetune]
    trained = {**TRAINED[pruner], "training": training} if pruner in TRAINED else {}
    return [{pruner: {"parameters": share, **trained}}, {"nni.speedup": {}}, finetune]


def epochs(pruner: str) -> int:
    options = TRAINED.get(pruner)
    if options is None:
        return 0
    schedule = options["schedule"]
    return schedule.get("steps", 1) * schedule.get("epochs_per_step", 1) + options.get("cooldown", 0)


def run(steps: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """results.json of the chain."""
    data = options.data if options.data.startswith("builtin:") else str(Path(options.data).resolve())
    weights = options.weights if options.weights.startswith("builtin:") else str(Path(options.weights).resolve())
    recipe = {
        "name": "pruners",
        "data": {"root": data},
        "model": {"weights": weights},
        "chain": steps,
        "measure": {"runtimes": ["torch", "openvino"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruners.yaml"
        path.write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-m", "detpress.cli", "run", str(path), "--out", f"{folder}/run", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{steps}: detpress run ended with {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def row(name: str, share: float, result: dict[str, Any], epochs: int, last: int = -1) -> dict[str, Any]:
    stages = result["stages"]
    metrics = stages[last]["metrics"]
    return {
        "pruner": name,
        "removed": share,
        "map": metrics["map"],
        "parameters": metrics["parameters"],
        "nonzero_parameters": metrics["nonzero_parameters"],
        "macs": metrics["macs"],
        "latency_ms": {runtime: found["median"] for runtime, found in metrics["latency_ms"].items()},
        "epochs": epochs,
        "seconds": sum(stage["seconds"] for stage in stages[1:]) if last else 0.0,
    }


def table(rows: list[dict[str, Any]], protocol: str) -> str:
    lines = [
        f"mAP by {protocol}; latency of one image in ms, median.",
        "",
        "| pruner | removed | mAP | parameters | non-zero | MACs | torch | OpenVINO | epochs | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        cells = [
            r["pruner"],
            f"{r['removed']:.0%}",
            f"{r['map']:.4f}",
            f"{r['parameters']:,}",
            f"{r['nonzero_parameters']:,}",
            f"{r['macs'] / 1e6:,.1f} M",
            *(f"{r['latency_ms'][runtime]:.2f}" for runtime in ("torch", "openvino")),
            str(r["epochs"]),
            f"{r['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
