"""The figures of a model by dotted name: `map`, `storage_bytes.on_disk`, `latency_ms.openvino.median`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detpress.errors import InputError, nearest, shortened

DEFAULT_FIGURES = (
    "map",
    "parameters",
    "macs",
    "storage_bytes.on_disk",
    "latency_ms.torch.median",
    "latency_ms.openvino.median",
)
FIGURES = (
    *DEFAULT_FIGURES,
    "nonzero_parameters",
    "peak_memory_bytes",
    "storage_bytes.dense_fp32",
    "latency_ms.torch-compile.median",
    "latency_ms.onnxruntime.median",
    "seconds",
)
OPEN_ENDED = (
    "ap.",
    "map_by_runtime.",
    "storage_bytes.",
    "latency_ms.",
    "processing_ms.",
    "plugin.",
)  # a class, a runtime, ...


def flat_figures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a stage's `metrics`, nested ones under dotted names."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat_figures(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def figure(metrics: Mapping[str, Any], name: str) -> float:
    """The figure `name` of a stage's `metrics`. Raises InputError where they have none of this name."""
    figures = dict(flat_figures(metrics))
    if name not in figures:
        raise InputError(f"the figure '{name}' is none of this model's; {nearest(name, figures)}")
    return figures[name]


def check_figure(name: str, where: str = "") -> None:
    """Raises InputError, beginning with `where`, for a name that no model has a figure of."""
    if name not in FIGURES and not (name.startswith(OPEN_ENDED) and name.rpartition(".")[2]):
        raise InputError(f"{where}no figure {shortened(name)}; {nearest(name, FIGURES)}")


def higher_is_better(name: str) -> bool:
    return name == "map" or name.startswith(("ap.", "map_by_runtime."))


def shown(name: str, value: float) -> str:
    """The figure for people, with its unit."""
    if higher_is_better(name):
        return f"{value:.4f}"
    if name.startswith("storage_bytes.") or name == "peak_memory_bytes":
        return f"{value / 1e6:,.2f} MB"
    if name.startswith("latency_ms.") and name.endswith((".spread", ".others", ".repeats")):
        return f"{value:,.2f}"
    if name.endswith(".joules"):
        return f"{value:,.3f} J"
    if name.startswith(("latency_ms.", "processing_ms.")):
        return f"{value:,.2f} ms"
    if name == "macs":
        return f"{value / 1e6:,.1f} M"
    if name.startswith("plugin."):
        if name.endswith("_bytes"):
            return f"{value:,.0f} B"
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
    return f"{value:,.1f} s" if name == "seconds" else f"{value:,.0f}"


def ratio(name: str, value: float, reference: float) -> str:
    """`x0.0331`: the figure as a multiple of the reference's, to three digits; nothing where either shows as none."""
    if shown(name, 0.0) in (shown(name, value), shown(name, reference)):
        return ""
    multiple = value / reference
    return f"x{multiple:,.0f}" if multiple >= 99.95 else f"x{multiple:#.3g}"


def heading(name: str) -> str:
    """The figure's name for people."""
    if name.startswith("latency_ms."):
        runtime, _, what = name.removeprefix("latency_ms.").rpartition(".")
        return f"{runtime} {what}"
    if name.startswith("map_by_runtime."):
        return f"mAP in {name.removeprefix('map_by_runtime.')}"
    if name.startswith("processing_ms."):
        part, _, what = name.removeprefix("processing_ms.").rpartition(".")
        return f"{part} the network {what}"
    if name.startswith("plugin."):
        return name.removeprefix("plugin.").replace("_", " ")
    plain = {"map": "mAP", "macs": "MACs", "storage_bytes.on_disk": "on disk", "seconds": "seconds to make"}
    return plain.get(name, name.replace("_", " "))


def is_simulated(name: str, simulated: Iterable[str]) -> bool:
    """Whether the figure only imitates what the model's form stands for; `simulated` as a stage's metrics list it."""
    return any(name == what or name.startswith(f"{what}.") for what in simulated)


def mark(name: str, row: Mapping[str, Any]) -> str:
    """What stands before a figure of a study's row: `~` if simulated, `!` if the machine was busy meanwhile."""
    return "~" * is_simulated(name, row["simulated"]) + "!" * (name in row.get("busy", ()))


def measured_on(processors: Iterable[tuple[str, str]]) -> str:
    """A sentence on where latency was measured; none for no figure. processors: what was timed, and where."""
    names: dict[str, list[str]] = {}
    for name, processor in processors:
        names.setdefault(processor, []).append(name)
    if not names:
        return ""
    if len(names) == 1:
        return f"Latency was measured on {next(iter(names))}."
    found = "; ".join(f"{processor}: {', '.join(of)}" for processor, of in names.items())
    return f"Latencies were measured on different processors and cannot be compared. {found}."
