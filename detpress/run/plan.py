"""What a recipe would do: its chain with forms, layers touched and parameters left, without data and training."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.table import Table

from detpress.builtin import find_bundle
from detpress.contract.plugin import Plan
from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.form import Form
from detpress.detector.layer_patterns import still_matching
from detpress.detector.model import Model
from detpress.detector.network import check_in_integers
from detpress.encodings.bundle import bundle_digest, save_bundle
from detpress.errors import InputError, cut_short
from detpress.measure.size import macs, nonzero_parameters, parameter_count
from detpress.options import STAGE, bundles_in, parts_of, with_bundles
from detpress.recipe.file import Recipe, Step
from detpress.run.initial_model import initial_model, new_layers, open_recipe_data, recipe_classes
from detpress.training.config import TrainingOptions
from detpress.training.image_counts import ImageCounts
from detpress.training.parts import frozen_text
from detpress.voc.devkit import Devkit


@dataclass(frozen=True)
class PlannedStage:
    """One row of `detpress validate`.

    layers, untouched: the convolutions that the step touches, and the others, in the order of the network before it.
        Of the model, stage 0, those that are made anew, the others having the weights of a bundle.
    parameters, nonzero_parameters, macs: expected from the plugin's plan, not measured on the finished model; None
        where this plan, or one before it, does not tell.
    note: which layers the step's trainings freeze, and what the plugin cannot know before it has run; `not known: ...`
        where only the form is known.
    """

    index: int
    plugin: str
    accepts: tuple[Form, ...]
    form: Form
    layers: tuple[str, ...]
    untouched: tuple[str, ...]
    parameters: int | None
    nonzero_parameters: int | None
    macs: int | None
    note: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_chain(recipe: Recipe, devkit: Devkit | None = None) -> list[PlannedStage]:
    """The model and every step of the chain.

    devkit: where there is none, it is opened only if the recipe does not name the classes.
    Raises InputError where a step cannot be applied as it is configured, such as a pattern that matches no layer, or
    asks for images that the data set does not have. A step without a plan, or with one that fails, is not refused: what
    it does, and all after it, is not known.
    """
    classes = recipe_classes(recipe)
    if devkit is None and classes is None:
        devkit = open_recipe_data(recipe)
    images = count_images(recipe, devkit)
    model = initial_model(recipe, devkit)
    _check_heads_learn(recipe, model)
    with TemporaryDirectory() as folder:
        return _plan_steps(recipe, model, images, Path(folder))


def _plan_steps(recipe: Recipe, model: Model, images: ImageCounts, folder: Path) -> list[PlannedStage]:
    """folder: where the planned models are saved that later steps name."""
    form = model.form
    named = {name for step in recipe.chain for _, name in bundles_in(step.config) if name.startswith(STAGE)}
    planned: dict[str, str] = {}
    rows = [_row(0, "model", (), form, model, Plan(new_layers(recipe, model), model, " ".join(model.notes)))]
    unknown = ""
    for index, step in enumerate(recipe.chain, 1):
        if (before := f"{STAGE}{index - 1}") in named:
            planned[before] = str(folder / str(index - 1))
            save_bundle(model, Path(planned[before]))
        step = replace(step, config=with_bundles(step.config, planned))
        where = recipe.where(("chain", index - 1, step.name))
        accepts = tuple(sorted(step.plugin.accepts))
        if form not in accepts:
            takes = " or ".join(accepts)
            raise InputError(f"{where}: takes a {takes} model, but the weights {recipe.model.weights} are {form}")
        _check(recipe, index - 1, step, model, images)
        form = step.plugin.returns or form
        if not unknown and model.form not in accepts:
            unknown = f"not known: the plan of {rows[-1].plugin} gives a {model.form} model"
        if not unknown:
            try:
                plan = _plan(step, model)
                held = [text for text in [*_frozen(step, model), plan.note] if text]
                rows.append(_row(index, step.name, accepts, form, model, replace(plan, note="; ".join(held))))
                model = plan.model
                continue
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            except _NotKnownError as error:
                unknown = f"not known: {error}"
        rows.append(PlannedStage(index, step.name, accepts, form, (), (), None, None, None, unknown))
    return rows


def _check_heads_learn(recipe: Recipe, model: Model) -> None:
    """Raises InputError where the heads are made anew and frozen in every training."""
    new, names = set(new_layers(recipe, model)), model.architecture.names
    parts = [part for step in recipe.chain for _, part in parts_of(step.config)]
    frozen = [part.frozen for part in parts if isinstance(part, TrainingOptions)]
    if new and frozen and all(new <= set(still_matching(patterns, names)) for patterns in frozen):
        raise InputError(
            f"{recipe.where(('chain',))}: all trainings freeze {', '.join(sorted(new))}, the new heads of "
            "`model.classes: from_data`; expected one in which they learn"
        )


def _frozen(step: Step, model: Model) -> list[str]:
    """What each training of the step freezes of the model that comes in."""
    trainings = [part for _, part in parts_of(step.config) if isinstance(part, TrainingOptions)]
    return list(dict.fromkeys(frozen_text(model.network, model.architecture, part.frozen) for part in trainings))


class _NotKnownError(Exception):
    """What a step would do cannot be told. The message says why in one line."""


def _plan(step: Step, model: Model) -> Plan:
    """Raises InputError as the plugin does, and for layers that int8 does not have; _NotKnownError for whatever else a
    stranger's plan may do.
    """
    if step.plugin.returns is Form.INT8:
        check_in_integers(model.architecture)
    try:
        plan = step.plugin.plan(model, step.config)
    except InputError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise _NotKnownError(f"the plan of {step.name} failed: {type(error).__name__}{said and ': '}{said}") from error
    if plan is None:
        raise _NotKnownError(f"what {step.name} leaves shows when it has run")
    network = plan.model.network if isinstance(plan, Plan) and isinstance(plan.model, Model) else None
    if not isinstance(getattr(network, "architecture", None), Architecture):
        raise _NotKnownError(f"the plan of {step.name} gives no Plan with a Model")
    if not isinstance(plan.note, str) or not isinstance(plan.layers, Collection):
        raise _NotKnownError(f"the plan of {step.name} gives no names of layers, or a note that is no text")
    return plan


def _row(index: int, name: str, accepts: tuple[Form, ...], form: Form, before: Model, plan: Plan) -> PlannedStage:
    """The row of a step applied to the model `before`."""
    architecture = before.architecture
    named = zip(architecture.names, architecture.layers, strict=True)
    convolutions = [name for name, layer in named if isinstance(layer, Convolution)]
    return PlannedStage(
        index,
        name,
        accepts,
        form,
        tuple(layer for layer in convolutions if layer in plan.layers),
        tuple(layer for layer in convolutions if layer not in plan.layers),
        parameter_count(plan.model.network),
        nonzero_parameters(plan.model),
        macs(plan.model.architecture),
        plan.note,
    )


def count_images(recipe: Recipe, devkit: Devkit | None) -> ImageCounts:
    """Raises InputError where the recipe searches, but there are no validation images."""
    if devkit is None:
        return ImageCounts()
    train = devkit.image_set(recipe.data.train)
    val = devkit.image_set(recipe.data.val) if recipe.data.val in devkit.image_set_names else []
    with_objects = [sum(bool(annotation.learnt.any()) for annotation in annotations) for annotations in (train, val)]
    images = ImageCounts(recipe.data.train, len(train), *with_objects)
    if recipe.search is not None:
        try:
            images.check_validation()
        except InputError as error:
            raise InputError(f"{recipe.where(('search',))}: {error}") from error
    return images


def _check(recipe: Recipe, index: int, step: Step, model: Model, images: ImageCounts) -> None:
    """That the bundles are there which the options name, then the plugin's own check of its options, its message at the
    line of the option that it names.

    model: the last one that plans tell of.
    """
    for place, name in bundles_in(step.config):
        try:
            bundle_digest(find_bundle(name))
        except InputError as error:
            raise InputError(f"{recipe.where(('chain', index, step.name, *place))}: {error}") from error
    try:
        step.plugin.check(model, step.config, images)
    except InputError as error:
        option, _, what = str(error).partition(": ")
        if option.partition(".")[0] not in type(step.config).model_fields:
            raise InputError(f"{recipe.where(('chain', index, step.name))}: {error}") from error
        raise InputError(f"{recipe.where(('chain', index, step.name, *option.split('.')))}: {what}") from error
    except Exception as error:  # a stranger's check may do anything
        where = recipe.where(("chain", index, step.name))
        raise InputError(f"{where}: its check failed: {type(error).__name__}: {cut_short(str(error))}") from error


def plan_table(rows: list[PlannedStage]) -> Table:
    notes = [  # what is not known is so from there on: said once
        f"{row.index} {row.plugin}: {row.note}."
        for before, row in zip(["", *(row.note for row in rows)], rows, strict=False)
        if row.note and not (row.note == before and row.note.startswith("not known: "))
    ]
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
            "?" if row.parameters is None else f"{row.parameters:,}",
            "?" if row.nonzero_parameters is None else f"{row.nonzero_parameters:,}",
            "?" if row.macs is None else f"{row.macs / 1e6:,.1f} M",
        )
    return table


def touched_layers(row: PlannedStage) -> str:
    """What a step touches: `touches` and the layers, in the order of the network; where those left alone are fewer,
    these. Of the model, what is made anew; it keeps all others.
    """
    if row.index == 0:
        return f"keeps all convolutions but {', '.join(row.layers)}, which are made anew"
    if len(row.untouched) < len(row.layers):
        return f"touches all convolutions{' but ' if row.untouched else ''}{', '.join(row.untouched)}"
    return f"touches {', '.join(row.layers)}"
