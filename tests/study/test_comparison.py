"""What is said of a difference, and that a study's intervals are those of the bootstrap."""

import numpy as np
import pytest
from small_study import Finished

from detpress.measure.figures import flat_figures
from detpress.report.study_table import study_table
from detpress.study.comparison import best_row, compare, spread, verdict
from detpress.voc.bootstrap import RESAMPLES, centred, draw_images, interval, resampled_map
from detpress.voc.evaluate import find_matches
from detpress.voc.results import read_results


@pytest.mark.parametrize(
    ("low", "high", "by_seed", "said"),
    [
        (0.01, 0.03, [0.02, 0.01], "better"),
        (-0.03, -0.01, [-0.02, -0.01], "worse"),
        (-0.01, 0.03, [0.02, 0.01], "within noise"),
        (0.01, 0.03, [0.06, -0.01], "within noise"),  # the seeds do not agree
        (0.0, 0.0, [0.0], "within noise"),
    ],
)
def test_a_difference_counts_where_the_interval_excludes_zero_and_the_seeds_agree(
    low: float, high: float, by_seed: list[float], said: str
) -> None:
    assert verdict(low, high, by_seed) == said


def test_spread_over_seeds() -> None:
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5), "min": 1.0, "max": 6.0}
    assert spread([2.0])["std"] == 0.0


def test_a_row_has_the_interval_of_its_detections_and_the_paired_one_of_the_difference(finished: Finished) -> None:
    annotations = finished.plan.jobs[0].devkit.image_set("test")
    counts = draw_images(len(annotations))
    resampled = {}
    for name in ("whole", "pruned"):
        detections = read_results(
            finished.outcomes[name].stages[-1].detections, "test", finished.plan.jobs[0].devkit.classes
        )
        resampled[name] = resampled_map(find_matches(annotations, detections), "voc07", counts)
    rows = {row["name"]: row for row in finished.results["rows"]}
    whole, pruned = rows["whole"], rows["pruned"]
    expected = interval(centred(resampled["whole"], whole["figures"]["map"]["mean"]))
    assert whole["map_interval"] == pytest.approx({"low": expected.low, "high": expected.high}, abs=1e-12)
    assert whole["difference"] is None
    paired = interval(centred(resampled["pruned"] - resampled["whole"], pruned["difference"]["mean"]))
    bounds = {key: pruned["difference"][key] for key in ("low", "high")}
    assert bounds == pytest.approx({"low": paired.low, "high": paired.high}, abs=1e-12)
    assert pruned["difference"]["mean"] == pruned["figures"]["map"]["mean"] - whole["figures"]["map"]["mean"]


def test_resampled_figures_that_were_cut_short_are_computed_anew(finished: Finished) -> None:
    kept = list(finished.store.root.rglob("resampled-*.npy"))
    assert len(kept) == 3, "whole, pruned, trained"
    kept[0].write_bytes(kept[0].read_bytes()[:1000])
    kept[1].write_bytes(b"")
    devkits = {None: finished.plan.jobs[0].devkit}
    again = compare(finished.study, list(finished.outcomes.values()), devkits)
    assert again["rows"] == finished.results["rows"]
    assert all(np.load(path).shape == (RESAMPLES,) for path in kept)


def test_figures_are_those_of_the_last_stage(finished: Finished) -> None:
    [pruned] = [row for row in finished.results["rows"] if row["name"] == "pruned"]
    metrics = finished.outcomes["pruned"].stages[-1].metrics
    assert pruned["figures"]["latency_ms.torch.median"]["mean"] == metrics["latency_ms"]["torch"]["median"]
    assert dict(flat_figures(metrics)).keys() < pruned["figures"].keys()
    assert "parameters" in pruned["fronts"], "no other row has fewer"


def test_a_ratio_stands_in_the_table_but_of_what_took_no_time(finished: Finished) -> None:
    pruned = next(row for row in finished.results["rows"] if row["name"] == "pruned")
    table = study_table(finished.results, [pruned], ["parameters", "seconds"])
    parameters, seconds = (str(next(column.cells)) for column in table.columns[-2:])
    assert parameters == "643,662\nx0.659", "of 976,867"
    assert seconds.endswith(" s\n"), "the whole network was there already"


def test_the_best_row_is_highest_in_map_and_lowest_in_costs(finished: Finished) -> None:
    rows = finished.results["rows"]
    assert best_row(rows, "parameters")["name"] == "pruned"
    assert best_row(rows, "map")["figures"]["map"]["mean"] == max(
        row["figures"]["map"]["mean"] for row in rows if row["figures"]
    )
    assert best_row([], "map") is None
