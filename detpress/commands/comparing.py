"""`detpress compare` and `detpress report`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detpress.commands.options import Assignments, Json, Mlflow, Out, make_folder, open_tracking, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from detpress.recipe.file import Recipe
    from detpress.study.running import Outcome
    from detpress.study.terminal import StudyTerminal
    from detpress.voc.devkit import Devkit


def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="STUDY|RECIPE...", help="A study, or recipes: files or shipped ones' names.")
    ],
    seeds: Annotated[int | None, typer.Option(min=1, help="Run every recipe with the seeds 0 to N-1.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ROW", help="Compare with this row instead of the study's baseline.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="Run this row and the baseline alone; `*` is for any name; may be repeated."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help='Only rows such as "storage_bytes.on_disk < 2e6".')
    ] = None,
    best: Annotated[
        str | None, typer.Option(metavar="FIGURE", help="Choose the row whose figure is best: map, macs, ...")
    ] = None,
    time_again: Annotated[
        bool, typer.Option("--time-again", help="Measure every row's latency anew, in turn, now that all is made.")
    ] = False,
    assignments: Assignments = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="auto|ADDRESS", help="Run on this Ray cluster; docs/clusters.md.")
    ] = None,
    out: Out = None,
    mlflow: Mlflow = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Compare recipes over several seeds: the same measurements, intervals, Pareto fronts.

    Each recipe runs in a process of its own; one that fails is recorded and stops no other. Stages that recipes share
    are made once. A comparison that was stopped goes on where it was when the same command is given again.

    \b
    detpress compare quickstart my-recipe.yaml --seeds 3
    detpress compare six-compressors --ray auto
    detpress compare pruners --baseline nni-l1norm-parameters-0.5
    detpress compare pruners --only "tp-*" --only "nni-*"
    detpress compare pruners --time-again
    detpress compare six-compressors --where "latency_ms.openvino.median < 5 and map > 0.9" --best storage_bytes.on_disk
    """
    from rich.console import Console

    from detpress.measure.figures import check_figure
    from detpress.report.study_table import study_table
    from detpress.report.whole import WholeFigures
    from detpress.run.store import open_store
    from detpress.study.choose import parse_condition
    from detpress.study.comparison import best_row, check_folder, has_more_jobs, means, write_study_folder
    from detpress.study.comparison import compare as compare_outcomes
    from detpress.study.definition import open_studies
    from detpress.study.running import open_study_data, plan_study, run_study
    from detpress.study.terminal import StudyTerminal
    from detpress.study.timing import time_again as measure_again

    condition = parse_condition(where) if where is not None else None
    for name in condition.names if condition else ():
        check_figure(name, f"--where {where}: ")
    if best is not None:
        check_figure(best, f"--best {best}: ")
    study = open_studies(recipes, seeds, assignments or [])
    if baseline is not None:
        study = study.beside(baseline)
    if only:
        study = study.only(only)
    folder = out or Path("runs") / study.name
    make_folder(folder)
    check_folder(study, folder)
    store = open_store()
    tracking = open_tracking(mlflow)
    outcomes: list[Outcome] = []
    results: dict[str, Any] = {}
    with StudyTerminal(quiet) as terminal:
        devkits = open_study_data(study, terminal.progress)
        for fold in study.folds:
            _check_data([job.recipe for job in study.jobs if job.fold == fold], devkits[fold], terminal)
        plan = plan_study(study, store, devkits)
        terminal.planned(plan)
        if ray is None:
            running = run_study(plan, store, folder, terminal)
        else:
            running = _on_ray(ray)(plan, store, folder, terminal, ray)
        try:
            with store.in_use([key for planned in plan.jobs for key in planned.keys]):
                for outcome in running:
                    outcomes.append(outcome)
                if time_again:
                    measure_again(outcomes, store, terminal.progress)
        finally:
            stopped = len(outcomes) < len(plan.jobs)
            if outcomes and not (stopped and has_more_jobs(study, outcomes, folder)):
                results = compare_outcomes(study, outcomes, devkits)
                write_study_folder(study, results, folder)
    if tracking:
        tracking.log(results, folder)
    rows = [row for row in results["rows"] if row["figures"]]
    _check_measured([*(condition.names if condition else ()), *([best] if best is not None else ())], rows)
    if condition:
        rows = [row for row in rows if condition.holds(means(row))]
    chosen = best_row(rows, best) if best is not None else None
    nothing_fits = not rows or (best is not None and chosen is None)
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if as_json:
        choice = {"where": where, "fits": [row["name"] for row in rows], "best": chosen and chosen["name"]}
        print_json(results | choice)
    else:
        shown = rows if condition else results["rows"]
        figures = [name for name in study.metrics if name != "map" and any(name in row["figures"] for row in rows)]
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(WholeFigures(study_table(results, shown, figures)))
        if best is not None and chosen is not None:
            console.print(f"Best {best}: {chosen['name']}", soft_wrap=True, highlight=False, markup=False)
        if nothing_fits:
            console.print("No recipe fits.", highlight=False)
        for outcome in failed:
            print(f"Failed: {outcome.job.what}: {outcome.failure}")
        console.print(f"Results: {folder / 'study.json'}", soft_wrap=True, highlight=False, markup=False)
    if failed or nothing_fits:
        raise typer.Exit(1)


def _check_measured(figures: "Sequence[str]", rows: "Sequence[dict[str, Any]]") -> None:
    """Raises InputError for a figure that none of the finished rows has: nothing could be chosen by it."""
    from detpress.errors import InputError, nearest

    known = {name for row in rows for name in row["figures"]}
    for name in figures:
        if known and name not in known:
            raise InputError(f"{name} was not measured: no row has it; {nearest(name, known)}")


def _check_data(recipes: "Sequence[Recipe]", devkit: "Devkit", terminal: "StudyTerminal") -> None:
    """Raises InputError where data would fail a recipe, before any of them runs."""
    from detpress.run.data_check import annotation_findings, picture_findings, report

    terminal.say(str(devkit))
    asked = {(recipe.data.model_dump_json(), bool(recipe.chain)): recipe for recipe in recipes}.values()
    report(list(dict.fromkeys(f for recipe in asked for f in annotation_findings(recipe, devkit))), terminal.say)
    found = [f for recipe in asked for f in picture_findings(recipe, devkit, terminal.progress)]
    report(list(dict.fromkeys(found)), terminal.say)


def _on_ray(address: str) -> "Callable[..., Iterator[Outcome]]":
    from detpress.errors import InputError

    try:
        from detpress.study.on_ray import run_study_on_ray
    except ImportError as error:
        raise InputError(f"--ray {address}: {error}; expected the extra `ray`: pip install 'detpress[ray]'") from error
    return run_study_on_ray


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RUN|STUDY", help="The folder of a run or a comparison, or a study.json alone.")
    ],
    charts: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of a study.json: its charts as pictures, into FOLDER.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html, report.md and report.csv into the folder of a run or a comparison.

    The page holds all that it shows; it can be opened from the file and sent as it is. Of a study.json alone, without
    pictures and bundles beside it, the summary and the table are printed as Markdown, or its charts drawn as SVG:
    fronts of mAP against each cost, and how mAP came back epoch by epoch.

    \b
    detpress report runs/quickstart
    detpress report runs/six-compressors
    detpress report docs/study/claims-128/study.json
    detpress report runs/six-compressors/study.json --charts pictures
    """
    from detpress.errors import InputError
    from detpress.report.chart_files import write_charts
    from detpress.report.markdown import study_markdown
    from detpress.report.page import write_report

    if charts is not None:
        if not results.is_file():
            raise InputError(f"--charts: expected a study.json, such as {results / 'study.json'}, got {results}")
        make_folder(charts, "--charts")
        drawn = [str(path) for path in write_charts(results, charts)]
        print_json({"charts": drawn}) if as_json else print(*drawn, sep="\n")
        return
    if results.is_file():
        text = study_markdown(results)
        print_json({"markdown": text}) if as_json else print(text, end="")
        return
    written = write_report(results)
    if as_json:
        print_json({kind: str(path) for kind, path in written.items()})
    else:
        for path in written.values():
            print(path)
