"""What a recipe would do: its chain with forms, layers touched and parameters left, without data and training."""

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from detpress.data import open_data
from detpress.detector.architecture import Convolution
from detpress.errors import DetpressError, InputError
from detpress.initial_model import initial_model, recipe_classes
from detpress.measure.size import macs, nonzero_parameters, parameter_count
from detpress.plugin import Form
from detpress.recipe import Recipe
from detpress.voc.devkit import Devkit


@dataclass(frozen=True)
class PlannedStage:
    """One row of `detpress validate`.

    layers, untouched: the convolutions that the step touches, and the others, in the order of the network.
    parameters, nonzero_parameters, macs: expected from the plugin's plan, not measured on the finished model.
    note: what the plugin cannot know before it has run.
    """

    index: int
    plugin: str
    accepts: tuple[Form, ...]
    form: Form
    layers: tuple[str, ...]
    untouched: tuple[str, ...]
    parameters: int
    nonzero_parameters: int
    macs: int
    note: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_chain(recipe: Recipe, devkit: Devkit | None = None) -> list[PlannedStage]:
    """The model and every step of the chain.

    devkit: where there is none, it is opened only if the recipe does not name the classes.
    Raises InputError where a step cannot be applied as it is configured, such as a pattern that matches no layer.
    """
    classes = recipe_classes(recipe)
    if devkit is None and classes is None:
        devkit = open_data(recipe.data.root, None)
    model = initial_model(recipe, devkit)
    rows = []
    form = model.form
    layers: tuple[str, ...] = ()
    note = ""
    for index, step in enumerate([None, *recipe.chain]):
        if step is not None:
            where = recipe.where(("chain", index - 1, step.name))
            if form not in step.plugin.accepts:
                takes = " or ".join(sorted(step.plugin.accepts))
                raise InputError(f"{where}: takes a {takes} model, but the weights {recipe.model.weights} are {form}")
            try:
                plan = step.plugin.plan(model, step.config)
            except DetpressError as error:
                raise type(error)(f"{where}: {error}") from error
            model, layers, note = plan.model, plan.layers, plan.note
            form = step.plugin.returns or form
        convolutions = [
            f"layers.{i}" for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution)
        ]
        rows.append(
            PlannedStage(
                index,
                step.name if step else "model",
                tuple(sorted(step.plugin.accepts)) if step else (),
                form,
                tuple(name for name in convolutions if name in layers),
                tuple(name for name in convolutions if name not in layers),
                parameter_count(model.network),
                nonzero_parameters(model),
                macs(model.architecture),
                note,
            )
        )
    return rows


def plan_table(rows: list[PlannedStage]) -> Table:
    notes = [f"{row.index} {row.plugin}: {row.note}." for row in rows if row.note]
    table = Table(
        caption="\n".join(["Expected from the plan, not measured. MACs: for one image.", *notes]),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("takes -> gives")
    for heading in ("layers\ntouched", "parameters", "non-zero", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.index} {row.plugin}",
            f"{' | '.join(row.accepts)} -> {row.form}" if row.accepts else row.form,
            str(len(row.layers)) if row.layers else "",
            f"{row.parameters:,}",
            f"{row.nonzero_parameters:,}",
            f"{row.macs / 1e6:,.1f} M",
        )
    return table


def touched_layers(row: PlannedStage) -> str:
    """The layers that a step touches, in the order of the network; where those left alone are fewer, these."""
    if len(row.untouched) < len(row.layers):
        return f"all convolutions{' but ' if row.untouched else ''}{', '.join(row.untouched)}"
    return ", ".join(row.layers)
