"""`detpress run` and `detpress validate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detpress.commands.options import Assignments, Json, Out, print_json

if TYPE_CHECKING:
    from detpress.stage import Stage

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped one.")]


def run(
    recipe: RecipeName,
    assignments: Assignments = None,
    seed: Annotated[int | None, typer.Option(help="The same as --set seed=N.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: every stage made, kept and measured in the same way.

    A stage that was made before, by this recipe or another, is taken from the store. A run that was stopped goes on
    where it was when the same command is given again.

    \b
    detpress run quickstart
    detpress run blood-cells --set data.root=path/to/BCCD --out runs/cells
    detpress run my-recipe.yaml --set chain[0].sparsity=0.5 --seed 1 --json
    """
    from rich.console import Console

    from detpress.cache import cache_root
    from detpress.data import open_data
    from detpress.initial_model import recipe_classes
    from detpress.plan import plan_chain
    from detpress.recipe import find_recipe, read_recipe
    from detpress.report.pictures import draw_stage_pictures
    from detpress.report.table import run_table
    from detpress.run import run_chain, write_run_folder
    from detpress.store import Store
    from detpress.terminal import TerminalListener
    from detpress.voc.devkit import check_boxes

    settings = [*(assignments or []), *([] if seed is None else [f"seed={seed}"])]
    checked = read_recipe(find_recipe(recipe), settings)
    folder = out or Path("runs") / checked.name
    devkit = open_data(checked.data.root, recipe_classes(checked))
    folder.mkdir(parents=True, exist_ok=True)
    plan_chain(checked, devkit)  # a step that cannot be applied is refused before anything is computed
    stages: list[Stage] = []
    results: dict[str, Any] = {}
    with TerminalListener() as listener:
        if checked.chain:
            bad = check_boxes(devkit.image_set(checked.data.train), checked.data.bad_boxes)
            if bad:
                listener.say(f"{len(bad)} training boxes left out: no area, or off the image; stage.log names them")
        try:
            for stage in run_chain(checked, devkit, Store(cache_root() / "store"), listener):
                stages.append(stage)
        finally:
            results = write_run_folder(checked, stages, folder)
        named = [(f"{stage.index} {stage.plugin}", stage.detections) for stage in stages]
        draw_stage_pictures(devkit, checked.data.test, named, folder / "pictures")
    if as_json:
        print_json(results)
        return
    console = Console()
    console.print(run_table(results))
    console.print(f"Results: {folder / 'results.json'}; bundles beside it", soft_wrap=True, highlight=False)
    console.print(
        f"Pictures, the truth beside each stage's boxes: {folder / 'pictures'}", soft_wrap=True, highlight=False
    )


def validate(recipe: RecipeName, assignments: Assignments = None, as_json: Json = False) -> None:
    """Check a recipe and print its chain: the forms, and what each step would touch. Nothing is trained.

    \b
    detpress validate quickstart
    detpress validate my-recipe.yaml --set chain[0].sparsity=0.9
    """
    from rich.console import Console

    from detpress.plan import plan_chain, plan_table, touched_layers
    from detpress.recipe import find_recipe, read_recipe

    rows = plan_chain(read_recipe(find_recipe(recipe), assignments or []))
    if as_json:
        print_json([row.as_dict() for row in rows])
        return
    Console().print(plan_table(rows))
    for row in rows:
        if row.layers:
            typer.echo(f"{row.index} {row.plugin} touches {touched_layers(row)}")
