"""What a recipe would do: its chain with forms, layers touched and parameters left, without data and training."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from detpress.data import open_data
from detpress.errors import DetpressError
from detpress.initial_model import initial_model, recipe_classes
from detpress.measure.size import macs, nonzero_parameters, parameter_count
from detpress.plugin import Form
from detpress.recipe import Recipe


@dataclass(frozen=True)
class PlannedStage:
    """One row of `detpress validate`.

    parameters, nonzero_parameters, macs: expected from the plugin's plan, not measured on the finished model.
    note: what the plugin cannot know before it has run.
    """

    index: int
    plugin: str
    accepts: tuple[Form, ...]
    form: Form
    layers: tuple[str, ...]
    parameters: int
    nonzero_parameters: int
    macs: int
    note: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_chain(recipe: Recipe) -> list[PlannedStage]:
    """The model and every step of the chain. The data set is opened only where the recipe does not name the classes.

    Raises InputError where a step cannot be applied as it is configured, such as a pattern that matches no layer.
    """
    classes = recipe_classes(recipe)
    devkit = open_data(recipe.data.root, None) if classes is None else None
    model = initial_model(recipe, devkit)
    rows = []
    form = model.form
    layers: tuple[str, ...] = ()
    note = ""
    for index, step in enumerate([None, *recipe.chain]):
        if step is not None:
            try:
                plan = step.plugin.plan(model, step.config)
            except DetpressError as error:
                raise type(error)(f"{recipe.origin}: chain[{index - 1}].{step.name}: {error}") from error
            model, layers, note = plan.model, plan.layers, plan.note
            form = step.plugin.returns or form
        rows.append(
            PlannedStage(
                index,
                step.name if step else "model",
                tuple(sorted(step.plugin.accepts)) if step else (),
                form,
                layers,
                parameter_count(model.network),
                nonzero_parameters(model),
                macs(model.architecture),
                note,
            )
        )
    return rows


def plan_table(rows: list[PlannedStage]) -> Table:
    notes = [f"{row.index} {row.plugin}: {row.note}." for row in rows if row.note]
    caption = "\n".join(["Expected from the plan, not measured. MACs: for one image.", *notes])
    table = Table(caption=caption, caption_justify="left")
    for heading in ("stage", "takes", "gives"):
        table.add_column(heading, no_wrap=True)
    for heading in ("layers touched", "parameters", "non-zero", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.index} {row.plugin}",
            ", ".join(row.accepts),
            row.form,
            str(len(row.layers)) if row.layers else "",
            f"{row.parameters:,}",
            f"{row.nonzero_parameters:,}",
            f"{row.macs / 1e6:,.1f} M",
        )
    return table
