"""A study in words."""

from collections.abc import Sequence
from typing import Any

from detpress.measure.figures import heading, mark, measured_on, ratio, shown


def scored_on(results: dict[str, Any]) -> str:
    """The images that mAP is of; results: as study.json has them."""
    test_set, folds = results["test_set"], results.get("folds", [])
    found = f"the {test_set['images']} images of the set '{test_set['name']}'"
    return f"{found} of {len(folds)} folds together" if folds else found


def baseline_figures(results: dict[str, Any]) -> dict[str, Any]:
    """The baseline's figures by name, to compare with; none where it failed."""
    return next((row["figures"] for row in results["rows"] if row["name"] == results["baseline"]), {})


def summary(results: dict[str, Any]) -> list[str]:
    """Sentences; results: as study.json has them."""
    rows = [row for row in results["rows"] if row["figures"]]
    seeds = results["seeds"]
    said = [
        f"{len(results['rows'])} rows, {len(seeds)} seed{'s' * (len(seeds) > 1)} each, scored by "
        f"{results['protocol']} on {scored_on(results)}."
    ]
    baseline = next((row for row in rows if row["name"] == results["baseline"]), None)
    if baseline is None:
        return [*said, f"The baseline, {results['baseline']}, has no result, so nothing is compared with it."]
    bounds = baseline["map_interval"]
    said.append(
        f"The baseline, {baseline['name']}, has mAP {baseline['figures']['map']['mean']:.4f} "
        f"(95 % interval over test images {bounds['low']:.4f} to {bounds['high']:.4f})."
    )
    compared = [row for row in rows if row["difference"]]
    for verdict, words in (
        ("better", "Better than the baseline beyond noise"),
        ("within noise", "Not told apart from the baseline: within noise"),
        ("worse", "Worse than the baseline beyond noise"),
    ):
        found = [f"{row['name']} ({row['difference']['mean']:+.4f})" for row in compared]
        found = [text for text, row in zip(found, compared, strict=True) if row["difference"]["verdict"] == verdict]
        if found:
            said.append(f"{words}: {', '.join(found)}.")
    good = [row for row in compared if row["difference"]["verdict"] != "worse"]
    costs = [name for name in results["metrics"] if name != "map" and not name.startswith("ap.")]
    for cost in costs:
        said += _cheapest(good, baseline, cost)
    if any(cost.startswith("latency_ms.") for cost in costs):
        said.append(measured_on((row["name"], processor) for row in rows for processor in row["processors"]))
    failed = [f"{row['name']} (seed {', '.join(row['failed'])})" for row in results["rows"] if row["failed"]]
    if failed:
        said.append(f"Failed: {'; '.join(failed)}.")
    return said


def _cheapest(rows: Sequence[dict[str, Any]], baseline: dict[str, Any], cost: str) -> list[str]:
    """The row of the lowest cost, if it is below the baseline's; what is simulated, or was measured while the machine
    was busy, does not count.
    """
    having = [row for row in rows if cost in row["figures"] and not mark(cost, row)]
    if not having or cost not in baseline["figures"] or mark(cost, baseline):
        return []
    best = min(having, key=lambda row: row["figures"][cost]["mean"])
    value, reference = best["figures"][cost]["mean"], baseline["figures"][cost]["mean"]
    multiple = ratio(cost, value, reference)
    if value >= reference or not multiple:
        return []
    return [
        f"Lowest {heading(cost)} among those not worse beyond noise: {best['name']}, {shown(cost, value)}, "
        f"{multiple} of the baseline's."
    ]
