"""A recipe: the YAML file that says everything that decides a result.

    name: prune-then-int8
    seed: 0
    data: {root: builtin:digits}
    model: {arch: yolov3, width: 0.125, image_size: 160, weights: builtin:digits}
    chain:
      - nni.l1norm: {sparsity: 0.6}                  # dense -> masked
      - nni.speedup: {}                              # masked -> dense, physically smaller
      - train.finetune: {epochs: 8}
      - inc.static_int8: {calibration_images: 64}    # dense -> int8
    measure: {protocol: voc07, runtimes: [torch, openvino], batch: 1}

Beside a step's plugin may stand how it runs: `{mine.round: {step: 0.1}, timeout: 600, memory: 4}` (`Running`).

Numbers of the chain can be searched instead of given: see `detpress.recipe.search`.

Reading it finds every mistake at once and says each in one line that names the file, the line and the key.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from detpress.builtin import check_data_set, shipped_folder
from detpress.contract.plugin import Plugin
from detpress.contract.registry import load_plugin
from detpress.detector.form import Form
from detpress.doors.broken import words_of
from detpress.errors import InputError, cut_short, nearest
from detpress.files.folders import FOLDER_NAME
from detpress.measure.section import Measure
from detpress.options import Options, Place
from detpress.recipe.named import read_named
from detpress.recipe.paths import bundles_found, resolve
from detpress.recipe.required import unmet
from detpress.recipe.search import Search, read_search
from detpress.recipe.sections import Data, ModelSource, Running
from detpress.recipe.yaml_source import YamlSource, read_yaml, spell_out


class _Document(Options):
    """The recipe as the file has it; the chain's steps are checked against their plugins afterwards."""

    name: Annotated[str, Field(pattern=FOLDER_NAME, description="names the run's folder")]
    description: str = Field("", description="what it shows, in a sentence")
    seed: int = Field(0, ge=0, lt=2**32, description="decides every random number")
    requires: dict[Annotated[str, Field(min_length=1)], str] = Field(
        {}, description="packages that must be installed -> their versions"
    )
    data: Data
    model: ModelSource
    chain: list[Any] = Field(description="steps, each one plugin with its options")
    measure: Measure = Measure()
    search: Any = Field(None, description="numbers of the chain that are searched, see `detpress.recipe.search`")


@dataclass(frozen=True)
class Step:
    """One plugin of the chain with its checked options."""

    name: str
    plugin: Plugin
    config: Options
    running: Running = field(default_factory=Running)

    def as_dict(self, spelled_out: bool) -> dict[str, Any]:
        """As a recipe has it, with or without what is at its default."""
        running = self.running.model_dump(exclude_unset=True)
        return {self.name: self.config.model_dump(mode="json", exclude_unset=not spelled_out), **running}


@dataclass(frozen=True)
class Recipe:
    name: str
    description: str
    seed: int
    data: Data
    model: ModelSource
    chain: tuple[Step, ...]
    measure: Measure
    text: str  # as read, before any `--set`
    where: Callable[[Place], str]  # `FILE:LINE: model.width` of a value; for messages
    path: Path
    assignments: tuple[str, ...] = ()  # each `--set`
    requires: Mapping[str, str] = field(default_factory=dict)  # package -> versions
    search: Search | None = None  # where there is one, the chain holds the first value of each searched number

    def as_dict(self) -> dict[str, Any]:
        """Plain data, every default spelled out: what the recipe means."""
        return {
            "name": self.name,
            "seed": self.seed,
            "data": self.data.model_dump(),
            "model": self.model.model_dump(),
            "chain": [step.as_dict(spelled_out=True) for step in self.chain],
            "measure": self.measure.model_dump(),
        }


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package; the folder says what they are for."""
    return {path.stem: path for path in _shipped_files() if path.parent.name != "studies"}


def _shipped_files() -> list[Path]:
    return sorted(shipped_folder().glob("*/*.yaml"))


def find_recipe(name_or_path: str, others: Iterable[str] = ()) -> Path:
    """The file of a shipped recipe, or the path itself. Raises InputError where there is nothing there.

    others: names that may have been meant, besides those of recipes.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.exists():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"{path}: no such file")
    if name_or_path in {path.stem for path in _shipped_files()}:
        raise InputError(f"'{name_or_path}' is a study: `detpress compare {name_or_path}` runs it")
    raise InputError(f"no recipe '{name_or_path}'; {nearest(name_or_path, [*shipped, *others])}")


def read_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`, changed by `--set` assignments, checked as far as a file can be.

    Raises InputError with one line a mistake: syntax, keys, types, plugins, options, and forms that do not fit. Where
    numbers are searched, the recipe is checked with the ends of what each of them may be.
    """
    source = changed(read_yaml(path), assignments)
    if "recipes" in source.data:
        raise InputError(
            f"{source.where(('recipes',))}: expected a recipe, and this is a study: `detpress compare {path}` runs it"
        )
    if "search" not in source.data:
        return check_recipe(source, assignments)
    search, ends = read_search(source)
    recipes, mistakes = [], []
    for values in ends:
        try:
            recipes.append(_with_values(source.path, source.text, assignments, values))
        except InputError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise InputError("\n".join(dict.fromkeys(mistakes)))
    return replace(recipes[0], search=search)


def trial_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe without its search, and with `values` for what is searched: key of the chain -> value.

    Raises InputError where these do not make a good recipe.
    """
    return _with_values(recipe.path, recipe.text, recipe.assignments, values)


def end_recipes(recipe: Recipe) -> list[Recipe]:
    """Where numbers are searched: the recipe with all of them at their first and at their last values."""
    assert recipe.search is not None
    space = recipe.search.space
    return [trial_recipe(recipe, {key: of.ends()[end] for key, of in space.items()}) for end in (0, -1)]


def recipe_text(recipe: Recipe, name: str) -> str:
    """A file that says the same under another name, wherever it lies: the recipe's own settings, paths absolute."""
    contents: dict[str, Any] = {"name": name}
    if recipe.description:
        contents["description"] = recipe.description
    contents["seed"] = recipe.seed
    if recipe.requires:
        contents["requires"] = dict(recipe.requires)
    contents["data"] = recipe.data.model_dump(mode="json", exclude_unset=True)
    contents["model"] = recipe.model.model_dump(mode="json", exclude_unset=True)
    contents["chain"] = [step.as_dict(spelled_out=False) for step in recipe.chain]
    contents["measure"] = recipe.measure.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=110)


def changed(source: YamlSource, assignments: Sequence[str]) -> YamlSource:
    """The source after the `--set` assignments. Raises InputError where it is no mapping, and as `set` does."""
    if not isinstance(source.data, dict):
        raise InputError(f"{source.where(())}: expected a recipe with the keys {', '.join(_Document.model_fields)}")
    for assignment in assignments:
        source.set(assignment)
    return source


def _with_values(path: Path, text: str, assignments: Sequence[str], values: Mapping[str, Any]) -> Recipe:
    """The recipe without its search, and with `values` for what is searched."""
    source = changed(YamlSource(path, text), assignments)
    source.data.pop("search")
    for key, value in values.items():
        source.put(key, value, source.where(("search", "space", key)))
    return check_recipe(source, assignments)


def check_recipe(source: YamlSource, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe that `source`, which searches nothing, describes; `assignments` changed it already.

    The paths in the source's data are made absolute, so that it says the same wherever it is written.
    Raises InputError with one line a mistake.
    """
    mistakes: list[str] = []
    document: _Document | None = None
    try:
        document = _Document.model_validate(source.data)
    except ValidationError as error:
        mistakes += spell_out(error, _Document, source, ())
    if document is not None:
        mistakes += unmet(document.requires, source)
    steps = list(_read_steps(source, mistakes))
    if document is None or mistakes:
        raise InputError("\n".join(mistakes))
    mistakes = _misfits(steps, None if document.model.weights else Form.DENSE, source)
    mistakes += _untrained_heads(document.model, steps, source)
    if mistakes:
        raise InputError("\n".join(mistakes))
    root = source.data["data"]["root"] = resolve(document.data.root, ("data", "root"), source, check_data_set)
    data = document.data.model_copy(update={"root": root})
    model = document.model
    if model.weights is not None:
        weights = source.data["model"]["weights"] = resolve(model.weights, ("model", "weights"), source)
        model = model.model_copy(update={"weights": weights})
    elif model.arch is None or model.image_size is None:
        raise InputError(f"{source.where(('model',))}: expected either `weights`, or `arch` and `image_size`")
    return Recipe(
        document.name,
        document.description,
        document.seed,
        data,
        model,
        tuple(_with_bundles_found(step, i, source) for i, step in enumerate(steps)),
        document.measure,
        source.text,
        source.where,
        source.path,
        tuple(assignments),
        document.requires,
    )


def _read_steps(source: YamlSource, mistakes: list[str]) -> Iterator[Step]:
    chain = source.data.get("chain")
    for i, item in enumerate(chain if isinstance(chain, list) else []):
        beside = {key: item[key] for key in Running.model_fields if key in item} if isinstance(item, dict) else {}
        named = {key: value for key, value in item.items() if key not in beside} if beside else item
        if isinstance(named, dict) and len(named) > 1:
            expected = f"expected one plugin with its options, and beside it only {', '.join(Running.model_fields)}"
            mistakes.append(f"{source.where(('chain', i))}: {expected}; got {', '.join(map(cut_short, named))}")
            continue
        found = read_named(named, ("chain", i), load_plugin, "plugin", "nni.speedup: {}", source, mistakes)
        try:
            running = Running.model_validate(beside)
        except ValidationError as error:
            mistakes += spell_out(error, Running, source, ("chain", i))
            continue
        if found:
            step = Step(*found, running)
            if failed := _failed_question(step):
                mistakes.append(f"{source.where(('chain', i, step.name))}: {failed}")
            else:
                yield step


def _failed_question(step: Step) -> str | None:
    """What a stranger's plugin raises where it is asked about its options, which is done again until it has run."""
    for question in (step.plugin.trains, step.plugin.repeats, step.plugin.bundles):
        try:
            question(step.config)
        except Exception as error:
            return f"its `{question.__name__}` failed: {words_of(error)}"
    return None


def _misfits(steps: Sequence[Step], form: Form | None, source: YamlSource) -> list[str]:
    """The first step that does not take the form that it is given. form: of the weights; None where only they tell."""
    for i, step in enumerate(steps):
        if form is not None and form not in step.plugin.accepts:
            takes = " or ".join(sorted(step.plugin.accepts))
            before = f"after {steps[i - 1].name}" if i else "at the start of the chain"
            return [f"{source.where(('chain', i, step.name))}: takes a {takes} model, but {before} it is {form}"]
        form = step.plugin.returns or form
    return []


def _untrained_heads(model: ModelSource, steps: Sequence[Step], source: YamlSource) -> list[str]:
    """Why the heads cannot be made anew, if they are to be: without weights, or if nothing trains them afterwards."""
    if model.classes is None:
        return []
    if model.weights is None:
        where = source.where(("model", "classes"))
        return [f"{where}: {model.classes}: expected only with `weights`, whose heads are made anew"]
    if not any(step.plugin.trains(step.config) for step in steps):
        heads = f"the new heads of `model.classes: {model.classes}`"
        step = "`train.finetune: {epochs: 10}`"
        return [f"{source.where(('chain',))}: no step trains {heads}; expected one that does, such as {step}"]
    return []


def _with_bundles_found(step: Step, index: int, source: YamlSource) -> Step:
    """The step with the bundles that its options name, such as a teacher, found like the recipe's other paths."""
    item = source.data["chain"][index]
    options = None if isinstance(item, str) else item[step.name]
    if options is None:
        return step
    options = bundles_found(options, step.plugin, step.config, ("chain", index, step.name), source)
    source.data["chain"][index] = item | {step.name: options}
    return replace(step, config=step.plugin.Config.model_validate(options))
