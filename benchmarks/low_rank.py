"""What low-rank convolutions cost: parameters, MACs and milliseconds of the shapes that each decomposition leaves.

    python benchmarks/low_rank.py [--weights builtin:digits] [--removed 0.5 0.75] [--threads 1]

--weights: a bundle, whose ranks are chosen by `macs`. Nothing is trained: how fast a network is, its weights do not
matter to. Latency of one image in ms, the median; the table is Markdown.
"""

import argparse

from detpress.api import Model, Plugin, find_bundle, load_bundle
from detpress.detector.kinds import Convolution
from detpress.measure.latency import measure_latency
from detpress.measure.size import macs, parameter_count
from detpress.plugins.low_rank import Cp, LowRankOptions, Spatial, Svd, Tucker
from detpress.runtimes.opening import open_runtime

PLUGINS: dict[str, Plugin] = {"svd": Svd(), "spatial": Spatial(), "tucker": Tucker(), "cp": Cp()}
RUNTIMES = ("torch", "onnxruntime", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="builtin:digits", help="a bundle (default builtin:digits)")
    parser.add_argument("--removed", type=float, nargs="+", default=[0.5, 0.75], help="shares of the MACs")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = load_bundle(find_bundle(options.weights))
    print(f"| plugin | removed | convolutions | parameters | MACs | {' | '.join(RUNTIMES)} | busy |")
    print(f"|---|--:|--:|--:|--:|{'--:|' * len(RUNTIMES)}---|")
    print(row("as it was", 0.0, model, options.threads))
    for share in options.removed:
        for name, plugin in PLUGINS.items():
            plan = plugin.plan(model, LowRankOptions(macs=share))
            assert plan is not None
            print(row(f"`low_rank.{name}`", share, plan.model, options.threads), flush=True)


def row(name: str, share: float, model: Model, threads: int) -> str:
    architecture = model.architecture
    convolutions = sum(isinstance(layer, Convolution) for layer in architecture.layers)
    found = [
        measure_latency(open_runtime(runtime, model, threads=threads), architecture, batch=1) for runtime in RUNTIMES
    ]
    busy = ", ".join(runtime for runtime, one in zip(RUNTIMES, found, strict=True) if one["busy"])
    times = " | ".join(f"{one['median']:.2f}" for one in found)
    size = f"{convolutions} | {parameter_count(model.network):,} | {macs(architecture) / 1e6:.1f} M"
    return f"| {name} | {share:.0%} | {size} | {times} | {busy} |"


if __name__ == "__main__":
    main()
