"""The page of a study, in a real browser: it sorts, filters, shows, and asks no host for anything."""

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import pytest
from playwright.sync_api import expect, sync_playwright
from small_study import Finished

from detpress.errors import InputError
from detpress.measure.figures import ratio
from detpress.report.chart_files import write_charts
from detpress.report.charts import cost_axis, nice_step, x_axis
from detpress.report.markdown import markdown, study_markdown
from detpress.report.page import table, write_report
from detpress.report.summary import summary
from detpress.run.stage_tables import validation_scores

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCRIPT = "<script>alert(1)</script>"
POINTS = "lines => lines.map(line => line.getAttribute('points'))"


@pytest.fixture(scope="session")
def folder(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study with a class and a failure whose names are HTML."""
    folder = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(finished.folder, folder)
    results = json.loads((folder / "study.json").read_text())
    results["description"] = SCRIPT
    for row in results["rows"]:
        if row["figures"]:
            row["figures"][f"ap.{SCRIPT}"] = row["figures"]["ap.one"]
    next(job for job in results["jobs"] if job["status"] == "failed")["reason"] = f'broke at "{SCRIPT}"'
    (folder / "study.json").write_text(json.dumps(results))
    files = folder / Path(next(job for job in results["jobs"] if job["row"] == "pruned")["stages"][1]["bundle"])
    (files.parent / "files").mkdir()
    (files.parent / "files/rounds.csv").write_text(f"kept,mAP,{SCRIPT}\n1,0.9,\n0.5,0.8,0.8\n0.25,,0.7\n")
    (files.parent / "files/words.csv").write_text("layer,what\nlayers.0,whole\n")
    trained = folder / Path(next(job for job in results["jobs"] if job["row"] == "trained")["stages"][1]["bundle"])
    (trained.parent / "validation").mkdir()
    (trained.parent / "validation/0.csv").write_text("epoch,mAP\n1,0.2\n2,0.1\n4,0.4\n")
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The opened page; whatever it logs as an error or asks the network for fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    address = (folder / "report.html").as_uri()
    allowed = (address, "data:image/jpeg;base64,")
    opened.on("request", lambda request: None if request.url.startswith(allowed) else wrong.append(request.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert wrong == []


def names(page: Any) -> list[str]:
    return [text.split("\n")[0].split()[0] for text in page.locator("#results tbody tr:visible th").all_inner_texts()]


def test_a_click_on_a_heading_sorts_by_value_and_another_turns_it_round(page: Any, finished: Finished) -> None:
    values = {row["name"]: row["figures"] for row in finished.results["rows"]}
    heading = page.get_by_role("button", name="parameters")
    heading.click()
    assert names(page)[0] == "pruned"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("parameters")
    assert names(page)[-1] == "broken", "rows without a value come last"
    page.get_by_role("button", name="mAP").click()
    found = [values[name]["map"]["mean"] for name in names(page)[:3]]
    assert found == sorted(found)
    page.get_by_role("button", name="mAP").press("Enter")
    found = [values[name]["map"]["mean"] for name in names(page)[:3]]
    assert found == sorted(found, reverse=True)


def test_words_and_boxes_filter_rows(page: Any) -> None:
    page.get_by_role("searchbox").fill("PRU")
    assert names(page) == ["pruned"]
    assert page.locator("#count").inner_text() == "1 of 4 rows"
    page.get_by_role("searchbox").fill("")
    page.get_by_label("on a Pareto front").check()
    assert "pruned" in names(page)
    assert "broken" not in names(page)


def test_a_point_tells_its_figures_to_the_pointer_and_to_the_keyboard(page: Any) -> None:
    point = page.locator("#pareto svg").first.locator(".point").first
    point.hover()
    assert page.locator("#tip").inner_text().startswith("pruned: mAP 0.")
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()
    point.focus()
    assert page.locator("#tip").inner_text().startswith("pruned: mAP 0.")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_one_class_at_a_time_has_its_curves(page: Any) -> None:
    page.locator("#curve-class").select_option("two")
    assert page.locator(".of-class:visible figcaption").all_inner_texts() == ["Precision and recall of two"]
    assert page.locator(".of-class:visible polyline").count() == 3


def test_names_stay_text(page: Any, folder: Path) -> None:
    assert SCRIPT in page.locator("#classes").inner_text()
    assert SCRIPT in page.locator("#failures").inner_text()
    assert page.locator("header p").inner_text() == SCRIPT
    assert page.locator("script").count() == 1
    assert SCRIPT not in (folder / "report.md").read_text()


def test_layers_training_pictures_and_recipes_are_there(page: Any, folder: Path, finished: Finished) -> None:
    page.locator("#layers summary", has_text="pruned").click()
    changed = page.locator("#layers details[open] td.changed").all_inner_texts()
    assert any("% zeros" in text for text in changed)
    losses = page.locator("#training .grid polyline")
    assert losses.count() == 3, "the three parts of the loss of one training"
    recovery = page.locator("#training figure", has_text="mAP on the validation images by epoch")
    assert [len(path.split()) for path in recovery.locator("polyline").evaluate_all(POINTS)] == [3]
    assert [text.strip() for text in recovery.locator(".legend li").all_inner_texts()] == ["trained"]
    assert page.locator("#kept figcaption").all_inner_texts() == ["pruned: nni.l1norm, rounds"]
    assert [len(path.split()) for path in page.locator("#kept polyline").evaluate_all(POINTS)] == [2, 2]
    assert [text.strip() for text in page.locator("#kept .legend li").all_inner_texts()] == ["mAP", SCRIPT]
    assert page.locator("#pictures .strip").count() == 6
    assert page.locator("#pictures .strip").first.locator("figcaption").all_inner_texts() == [
        *("truth", "pruned", "whole", "trained")
    ]
    recipe = page.locator("#recipes details", has_text="pruned")
    recipe.locator("summary").click()
    assert recipe.locator("pre").inner_text() == (folder / "recipes/pruned-seed0.yaml").read_text()
    recipe.get_by_role("button").click()
    expect(recipe.get_by_role("button")).to_have_text(re.compile("Copied|Selected"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_but_tables_and_pictures_is_wider_than_the_screen(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_twenty_recipes_stay_under_ten_megabytes(finished: Finished, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "study"
    shutil.copytree(folder, copied)
    results = json.loads((copied / "study.json").read_text())
    [row] = [row for row in results["rows"] if row["name"] == "trained"]
    [job] = [job for job in results["jobs"] if job["row"] == "trained"]
    for i in range(16):
        results["rows"].append(copy.deepcopy(row) | {"name": f"trained{i}"})
        results["jobs"].append(copy.deepcopy(job) | {"row": f"trained{i}"})
    (copied / "study.json").write_text(json.dumps(results))
    written = write_report(copied)
    assert written["html"].stat().st_size < 10e6


def test_the_report_of_a_run_has_a_row_a_stage(finished: Finished, tmp_path: Path) -> None:
    from detpress.run.chain import write_run_folder

    outcome = finished.outcomes["pruned"]
    model, pruned, narrow = outcome.stages
    pruned = replace(pruned, metrics=pruned.metrics | {"plugin": {"code_bytes": 188366.0}})
    write_run_folder(outcome.job.recipe, [model, pruned, narrow], tmp_path)
    written = write_report(tmp_path)
    assert "188,366 B" in written["md"].read_text()
    lines = written["csv"].read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["recipe", "0 model", "1 nni.l1norm", "2 nni.speedup"]
    assert not list(tmp_path.glob("*/*.npy")), "a run's folder stays as it was, but for the report"


def test_markdown_and_csv_have_the_rows(finished: Finished) -> None:
    header, *lines = table(finished.results).splitlines()
    assert header.split(",")[:4] == ["recipe", "form", "seeds", "mAP"]
    [pruned] = [line.split(",") for line in lines if line.startswith("pruned")]
    rows = {row["name"]: row for row in finished.results["rows"]}
    figures, bounds, difference = (rows["pruned"][part] for part in ("figures", "map_interval", "difference"))
    assert float(pruned[3]) == figures["map"]["mean"]
    said = dict(zip(header.split(","), pruned, strict=True))
    assert [float(said[f"difference{end}"]) for end in ("", " 95 % low", " 95 % high")] == [
        difference[part] for part in ("mean", "low", "high")
    ]
    whole = rows["whole"]["figures"]["map"]["mean"]
    share = figures["map"]["mean"] / whole
    assert (
        f"| pruned | dense | 0 | {figures['map']['mean']:.4f} (x{share:.3f}) "
        f"| {bounds['low']:.4f} to {bounds['high']:.4f} "
        f"| {difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}) "
        f"| {difference['verdict']} | 643,662 (x0.659) |"
    ) in markdown(finished.results), "of 976,867 parameters"
    assert f"| whole | dense | 0 | {whole:.4f} |" in markdown(finished.results), "the baseline is beside nothing"


@pytest.mark.parametrize(
    ("name", "value", "reference", "shown"),
    [
        ("macs", 26.0e6, 785.5e6, "x0.0331"),
        ("parameters", 28757, 3864064, "x0.00744"),
        ("parameters", 400, 400, "x1.00"),
        ("latency_ms.openvino.median", 99.96, 1.0, "x100"),
        ("seconds", 262.7, 0.001, ""),
        ("seconds", 0.001, 262.7, ""),
        ("map", 0.5, 0.0, ""),
    ],
)
def test_a_ratio_has_three_digits_and_is_left_out_where_a_figure_shows_as_nothing(
    name: str, value: float, reference: float, shown: str
) -> None:
    assert ratio(name, value, reference) == shown


def test_of_a_study_file_alone_there_is_the_table(finished: Finished, tmp_path: Path) -> None:
    alone = Path(shutil.copy(finished.folder / "study.json", tmp_path / "kept.json"))
    assert study_markdown(alone) == markdown(finished.results)
    alone.write_text('{"stages": []}')
    with pytest.raises(InputError, match=r"kept.json: expected a study.json, or the folder of a run or a study"):
        study_markdown(alone)


KEPT = Path(__file__).parents[2] / "docs/study"


def test_the_tables_of_the_docs_are_those_of_the_kept_results() -> None:
    pages = [set(page.read_text(encoding="utf-8").splitlines()) for page in KEPT.parent.glob("*.md")]
    kept = sorted(KEPT.glob("*/study.json"))
    assert kept
    for path in kept:
        rows = {line for line in study_markdown(path).splitlines() if line.startswith("|")}
        assert len(rows) > 2
        assert any(rows <= page for page in pages), path


def test_the_charts_of_the_docs_are_those_of_the_kept_results(tmp_path: Path) -> None:
    kept = sorted(KEPT.glob("*/*.svg"))
    assert kept
    for path in kept:
        drawn = write_charts(path.parent / "study.json", tmp_path)
        [again] = [picture for picture in drawn if picture.name == path.name]
        assert again.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_a_front_as_a_picture_has_each_row_and_its_name(finished: Finished, tmp_path: Path) -> None:
    path = tmp_path / "front-parameters.svg"
    assert path in write_charts(finished.folder / "study.json", tmp_path)
    picture = defusedxml.ElementTree.parse(path)
    names = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert names == [row["name"] for row in finished.results["rows"] if row["figures"]]
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == len(names)


def test_a_study_file_alone_shows_how_map_came_back(finished: Finished, tmp_path: Path) -> None:
    results = copy.deepcopy(finished.results)
    stages = {job["row"]: job["stages"] for job in results["jobs"] if job["status"] == "done"}
    assert {stage["plugin"] for stage in stages["trained"]} >= {"train.finetune"}
    for stage in (stage for row in stages.values() for stage in row):
        assert isinstance(stage["validation"], list)
        stage["validation"] = []  # where this machine was slow, a training was scored
    stages["trained"][-1]["validation"] = [[1, 0.2], [2, 0.1], [4, 0.4]]
    (tmp_path / "study.json").write_text(json.dumps(results))
    path = tmp_path / "recovery.svg"
    assert path in write_charts(tmp_path / "study.json", tmp_path)
    picture = defusedxml.ElementTree.parse(path)
    [curve] = picture.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.get("points").split()) == 3
    names = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert names == ["trained"]


def test_scores_of_a_training_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert validation_scores(tmp_path) == []
    table = tmp_path / "validation/0.csv"
    table.parent.mkdir()
    table.write_text("epoch,mAP\n1,0.2\n2,0.1\n")
    assert validation_scores(tmp_path) == [(1, 0.2), (2, 0.1)]
    for content in ("", "epoch,mAP\n1,nan\n", "epoch,mAP\n1,good\n", "epoch,loss\n1,0.2\n"):
        table.write_text(content)
        with pytest.raises(InputError, match=r"0\.csv: not what detpress writes; expected epochs and mAP"):
            validation_scores(tmp_path)


def test_the_summary_says_what_was_found(finished: Finished) -> None:
    said = " ".join(summary(finished.results))
    assert "The baseline, whole, has mAP" in said
    assert "Failed: broken (seed 0)." in said
    [pruned] = [row for row in finished.results["rows"] if row["name"] == "pruned"]
    words = {"better": "Better than", "worse": "Worse than", "within noise": "Not told apart"}
    assert words[pruned["difference"]["verdict"]] in said


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the folder of a run \(results.json\) or of a study \(study.json\)"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(InputError, match=r"study.json: not what detpress writes: 'rows' is missing"):
        write_report(tmp_path)


@pytest.mark.parametrize(("extent", "step"), [(1.0, 0.2), (0.07, 0.02), (5.9, 1.0), (6.1, 2.0), (4e6, 1e6)])
def test_steps_of_an_axis(extent: float, step: float) -> None:
    assert nice_step(extent) == pytest.approx(step)


def test_ticks_of_an_axis() -> None:
    assert [text for _, text in x_axis("recall", 0.0, 1.0).ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_costs_a_decade_apart_have_a_logarithmic_axis() -> None:
    axis = cost_axis("on disk (MB)", [0.2, 15.57, 3.96])
    assert axis.label == "on disk (MB), logarithmic"
    assert [text for _, text in axis.ticks] == ["0.2", "0.5", "1", "2", "5", "10"]
    steps = [axis.at(value) for value in (0.5, 1.0, 2.0)]
    assert steps[1] - steps[0] == pytest.approx(steps[2] - steps[1], abs=0.01)
    assert not cost_axis("ms", [1.0, 9.0]).logarithmic
    assert not cost_axis("index (bytes)", [0.0, 9.0]).logarithmic
