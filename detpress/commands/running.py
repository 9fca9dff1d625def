"""`detpress run` and `detpress validate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detpress.commands.options import Assignments, Json, Mlflow, Out, make_folder, open_tracking, print_json

if TYPE_CHECKING:
    from detpress.recipe.file import Recipe
    from detpress.run.stage import Stage
    from detpress.run.store import Store
    from detpress.run.terminal import TerminalListener
    from detpress.voc.devkit import Devkit

STOPPED = "stopped before its end"
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped one.")]


def run(
    recipe: RecipeName,
    assignments: Assignments = None,
    seed: Annotated[int | None, typer.Option(help="The same as --set seed=N.")] = None,
    out: Out = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make every stage of the chain, or of a search's winner, anew.")
    ] = False,
    mlflow: Mlflow = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: every stage made, kept and measured in the same way.

    A stage that was made before, by this recipe or another, is taken from the store. A run that was stopped goes on
    where it was when the same command is given again.

    \b
    detpress run quickstart
    detpress run blood-cells --set data.root=path/to/BCCD --out runs/cells
    detpress run my-recipe.yaml --set 'chain[0].sparsity=0.5' --seed 1 --json
    """
    from detpress.recipe.file import find_recipe, read_recipe
    from detpress.run.terminal import TerminalListener

    settings = [*(assignments or []), *([] if seed is None else [f"seed={seed}"])]
    checked = read_recipe(find_recipe(recipe), settings)
    has_computed = "torch" in sys.modules  # perhaps, in a plugin's module
    listener = TerminalListener()
    steps = "1 step" if len(checked.chain) == 1 else f"{len(checked.chain)} steps"
    listener.say(f"{checked.name}: {steps}, seed {checked.seed}")

    # These import PyTorch, which takes seconds: what is wrong with the recipe itself is said before.
    from detpress.run.apart import copy_this_process
    from detpress.run.application import runs_apart
    from detpress.run.data_check import annotation_findings, picture_findings, report
    from detpress.run.initial_model import open_recipe_data
    from detpress.run.plan import plan_chain
    from detpress.run.run_folder import check_run_folder
    from detpress.run.store import open_store

    if not has_computed and any(runs_apart(step) for step in checked.chain):
        copy_this_process()
    folder = out or Path("runs") / checked.name
    make_folder(folder)
    check_run_folder(folder)
    store = open_store(shared=not fresh)
    tracking = open_tracking(mlflow)
    found: dict[str, Any] = {}
    with listener:
        devkit = open_recipe_data(checked, listener.progress)
        listener.say(str(devkit))
        report(annotation_findings(checked, devkit), listener.say)
        plan_chain(checked, devkit)  # a step that cannot be applied is refused before anything is computed
        report(picture_findings(checked, devkit, listener.progress), listener.say)
        if checked.search is not None:
            checked, found = _run_search(checked, devkit, store, listener, folder, as_json)
        results = _run_chain(checked, devkit, store, listener, folder, fresh)
    if tracking:
        tracking.log(results, folder)
    if as_json:
        print_json(results | found)
    else:
        _print_results(results, folder)


def _run_search(
    recipe: "Recipe", devkit: "Devkit", store: "Store", listener: "TerminalListener", folder: Path, as_json: bool
) -> tuple["Recipe", dict[str, Any]]:
    """The winner's recipe, still to be run, and what `--json` says of the search."""
    from dataclasses import replace

    from rich.console import Console

    from detpress.recipe.file import trial_recipe
    from detpress.report.trials import plot_points, trial_line, trial_points, trials_table
    from detpress.report.whole import WholeFigures
    from detpress.run.search import run_search, winner_recipe

    for result in run_search(recipe, devkit, store, listener, folder):
        listener.say(trial_line(result))
    if not as_json:
        Console().print(WholeFigures(trials_table(result)))
    if result.search.conditions:
        across, upwards = result.search.conditions[0].metric, result.search.metric
        plot_points(trial_points(result), recipe.name, across, upwards, folder / "trials.html")
    text = winner_recipe(result)
    (folder / "winner.yaml").write_text(text, encoding="utf-8")
    assert result.winner is not None
    return replace(trial_recipe(recipe, result.winner.values), text=recipe.text), {"search": result.as_dict()}


def _run_chain(
    recipe: "Recipe", devkit: "Devkit", store: "Store", listener: "TerminalListener", folder: Path, fresh: bool
) -> dict[str, Any]:
    """results.json's contents, after the run's folder was written; also what was done before something failed."""
    import tempfile
    from contextlib import ExitStack

    from detpress.errors import DetpressError, InputError
    from detpress.report.pictures import draw_stage_pictures
    from detpress.run.chain import run_chain, write_run_folder
    from detpress.run.remarks import remarks
    from detpress.run.run_folder import UNFINISHED, add_pictures, has_whole_run

    stages: list[Stage] = []
    results: dict[str, Any] = {}
    failed: str | None = STOPPED
    with ExitStack() as in_use:
        try:
            for stage in run_chain(recipe, devkit, store, listener, fresh=fresh):
                in_use.enter_context(store.in_use([stage.key]))  # until it is copied
                stages.append(stage)
                for remark in remarks(stages):
                    listener.say(f"  {remark}")
            failed = None
        except DetpressError as error:
            failed = str(error)
            raise
        finally:
            # A run that fails at once leaves the results of an earlier one, and one that is stopped those of itself.
            if stages and not (failed == STOPPED and has_whole_run(folder, stages)):
                results = write_run_folder(recipe, stages, folder, failed)
    named = [
        (f"{stage.index} {stage.plugin}", folder / f"{stage.index}-{stage.plugin}" / "results") for stage in stages
    ]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as drawn:
            pictures = draw_stage_pictures(devkit, recipe.data.test, named, Path(drawn), listener.say)
            add_pictures({str(path.relative_to(drawn)): path for path in pictures}, folder)
    except (OSError, ValueError, RuntimeError, MemoryError, InputError) as error:  # the results do not hang on it
        listener.say(f"  pictures cannot be drawn or written: {error}")
    return results


def _print_results(results: dict[str, Any], folder: Path) -> None:
    from rich.console import Console

    from detpress.report.table import run_table
    from detpress.report.whole import WholeFigures

    console = Console()
    console.print(WholeFigures(run_table(results)))
    for line in (
        f"Results: {folder / 'results.json'}; bundles beside it",
        f"Pictures, the truth beside each stage's boxes: {folder / 'pictures'}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def validate(
    recipe: RecipeName,
    assignments: Assignments = None,
    no_data: Annotated[bool, typer.Option("--no-data", help="Leave out reading the data set.")] = False,
    as_json: Json = False,
) -> None:
    """Check a recipe and its data, and print the chain: the forms, and what each step would touch. Nothing is trained.

    Annotations and pictures are read; pictures that did not change since the last time are not read again.

    \b
    detpress validate quickstart
    detpress validate my-recipe.yaml --set 'chain[0].sparsity=0.9'
    """
    from detpress.recipe.file import end_recipes, find_recipe, read_recipe
    from detpress.run.terminal import TerminalListener

    checked = read_recipe(find_recipe(recipe), assignments or [])
    listener = TerminalListener()

    from rich.console import Console

    from detpress.report.whole import WholeFigures
    from detpress.run.data_check import annotation_findings, picture_findings, report
    from detpress.run.initial_model import open_recipe_data
    from detpress.run.plan import (  # imports PyTorch, taking seconds
        count_images,
        plan_chain,
        plan_table,
        touched_layers,
    )
    from detpress.voc.named import is_there

    with listener:
        there = not no_data and is_there(checked.data.root)
        devkit = open_recipe_data(checked, listener.progress) if there else None
        if devkit is not None:
            listener.say(str(devkit))
            report(annotation_findings(checked, devkit), listener.say)
        count_images(checked, devkit)
        planned = [plan_chain(end, devkit) for end in (end_recipes(checked) if checked.search else [checked])]
        if devkit is None and not no_data:
            listener.say(f"the data set {checked.data.root} is not there: only the recipe is checked")
        if devkit is not None:
            report(picture_findings(checked, devkit, listener.progress), listener.say)
    if checked.search is not None:
        first, last = planned
        if as_json:
            print_json({"first": [row.as_dict() for row in first], "last": [row.as_dict() for row in last]})
            return
        for key, of in checked.search.space.items():
            print(f"searched: {key}: {of}")
        for which, rows in (("first", first), ("last", last)):
            print(f"with each at its {which} value:")
            Console().print(WholeFigures(plan_table(rows)))
        return
    [rows] = planned
    if as_json:
        print_json([row.as_dict() for row in rows])
        return
    Console().print(WholeFigures(plan_table(rows)))
    for row in rows:
        if row.layers:
            print(f"{row.index} {row.plugin} {touched_layers(row)}")
