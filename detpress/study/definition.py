"""A study: the YAML file that says which recipes are compared, at which parameters, with which seeds.

    name: three-sparsities
    seeds: [0, 1, 2]
    baseline: whole
    shared:                                          # sections of the recipes below that do not have their own
      data: {root: "builtin:digits"}
      model: {weights: "builtin:digits"}
    recipes:
      - {name: whole, chain: []}
      - name: l1norm
        chain: [nni.l1norm: {sparsity: 0.5}, nni.speedup, train.finetune: {epochs: 4}]
        matrix: {"chain[0].sparsity": [0.3, 0.5, 0.7]}
      - quickstart                                   # a shipped recipe, or the file of one

Each recipe at each combination of its parameters is one row of the comparison, a `Variant`; with a seed it is a
`Job`, or one a fold where `data.split` deals the images into folds and names none. A study is checked whole before
anything is computed, like a recipe.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from detpress.builtin import shipped_folder
from detpress.errors import InputError, nearest
from detpress.files.folders import FOLDER_NAME
from detpress.measure.figures import DEFAULT_FIGURES, check_figure
from detpress.options import Options, Place
from detpress.recipe.file import Recipe, changed, check_recipe, find_recipe, shipped_recipes
from detpress.recipe.yaml_source import YamlSource, read_yaml, spell_out

Matrix = dict[str, Annotated[list[Any], Field(min_length=1)]]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MOST_JOBS = 10_000
LONGEST_NAME = 100  # as FOLDER_NAME has it


class _Document(Options):
    """The study as the file has it; its recipes are checked afterwards."""

    name: Annotated[str, Field(pattern=FOLDER_NAME, description="names the study's folder")]
    description: str = Field("", description="what it asks, in a sentence")
    seeds: list[Seed] = Field([0], min_length=1, description="every recipe is run with each of them")
    baseline: str | None = Field(None, description="the row that the others are compared with; the first by default")
    metrics: list[str] = Field(list(DEFAULT_FIGURES), min_length=1, description="the figures shown, `map` among them")
    shared: dict[str, Any] = Field({}, description="sections of the inline recipes that do not have their own")
    matrix: Matrix = Field({}, description="values of parameters, for every recipe without a matrix of its own")
    recipes: list[Any] = Field(min_length=1, description="inline recipes, shipped ones' names, files")


class _Reference(Options):
    """A recipe of its own file, with what the study adds."""

    recipe: str
    name: Annotated[str, Field(pattern=FOLDER_NAME)] | None = None
    matrix: Matrix | None = None


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a recipe at one combination of the matrix's parameters.

    parameters: by their keys in the recipe, such as `chain[0].sparsity`.
    """

    name: str
    parameters: dict[str, Any]
    source: YamlSource
    recipe: Recipe


@dataclass(frozen=True)
class Job:
    """One recipe with one seed.

    fold: the part of the images that is the test set, where the study takes all folds.
    text: the recipe as YAML with all that the study decides, to be run by itself.
    """

    variant: str
    parameters: dict[str, Any]
    seed: int
    fold: int | None
    recipe: Recipe
    text: str

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}" + (f"-fold{self.fold}" if self.fold is not None else "")

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.variant}, seed {self.seed}" + (f", fold {self.fold}" if self.fold is not None else "")


@dataclass(frozen=True)
class Study:
    """What to compare.

    folds: those of each seed; None alone where the images are not dealt into folds.
    jobs: every variant with the first seed and fold, then every one with the next fold, then the next seed.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    folds: tuple[int | None, ...]
    baseline: str
    metrics: tuple[str, ...]
    jobs: tuple[Job, ...]
    text: str

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(job.variant for job in self.jobs))

    def beside(self, baseline: str) -> "Study":
        """The same with another row that the others are compared with. Raises InputError where there is none."""
        if baseline not in self.variants:
            raise InputError(f"--baseline {baseline}: no row of that name; {nearest(baseline, self.variants)}")
        return replace(self, baseline=baseline)

    def only(self, patterns: Sequence[str]) -> "Study":
        """The same with the rows that one of the shell-style `patterns` matches, and the baseline.

        Raises InputError for a pattern that no row matches.
        """
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.variants):
                raise InputError(f"--only {pattern!r}: no row of that name; {nearest(pattern, self.variants)}")
        kept = [*patterns, self.baseline]
        jobs = tuple(job for job in self.jobs if any(fnmatchcase(job.variant, pattern) for pattern in kept))
        return replace(self, jobs=jobs)


def shipped_studies() -> dict[str, Path]:
    """Name -> file of the studies that come with the package."""
    return {path.stem: path for path in sorted(shipped_folder().glob("studies/*.yaml"))}


def open_studies(names: Sequence[str], seeds: int | None = None, assignments: Sequence[str] = ()) -> Study:
    """The study that `names` mean: one study's name or file, or recipes' names and files.

    seeds: how many, 0 and up, instead of the study's own.
    assignments: `--set` of every recipe.
    Raises InputError with one line a mistake.
    """
    set_by_hand = {text.partition("=")[0].strip(): text for text in assignments}
    if "seed" in set_by_hand:
        raise InputError(
            f"--set {set_by_hand['seed']}: a study's rows all have its seeds; expected --seeds COUNT, from 0 on"
        )
    if "name" in set_by_hand:
        raise InputError(f"--set {set_by_hand['name']}: a study's rows each have a name; it cannot be one for all")
    chosen = None if seeds is None else tuple(range(seeds))
    if len(names) == 1 and names[0] in shipped_studies():
        return read_study(shipped_studies()[names[0]], chosen, assignments)
    sources = [read_yaml(_find(name)) for name in names]
    if len(sources) == 1 and isinstance(sources[0].data, dict) and "recipes" in sources[0].data:
        return read_study(sources[0].path, chosen, assignments)
    variants = [_variant(source, source.path.stem, {}, assignments) for source in sources]
    name = "-".join(["compare", *(variant.name for variant in variants)])[:LONGEST_NAME]
    text = "".join(f"# {source.path.name}\n{source.text}\n" for source in sources)
    return _checked(name, "", chosen or (0,), None, DEFAULT_FIGURES, variants, text)


def read_study(path: Path, seeds: Sequence[int] | None = None, assignments: Sequence[str] = ()) -> Study:
    """The study in `path`, `seeds` instead of its own. Raises InputError with one line a mistake."""
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        raise InputError(f"{path}:1: expected a study with the keys {', '.join(_Document.model_fields)}")
    try:
        document = _Document.model_validate(source.data)
    except ValidationError as error:
        raise InputError("\n".join(spell_out(error, _Document, source, ()))) from error
    for i, figure in enumerate(document.metrics):
        check_figure(figure, f"{source.where(('metrics', i))}: ")
    if unknown := document.shared.keys() - {"data", "model", "measure", "requires"}:
        key = sorted(unknown)[0]
        raise InputError(f"{source.where(('shared', key))}: expected data, model, measure or requires")
    variants: list[Variant] = []
    mistakes: list[str] = []
    for i, entry in enumerate(document.recipes):
        try:
            variants += _read_entry(source, ("recipes", i), entry, document, assignments)
        except InputError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise InputError("\n".join(dict.fromkeys(mistakes)))
    chosen = tuple(seeds or document.seeds)
    if len(set(chosen)) < len(chosen):
        raise InputError(f"{source.where(('seeds',))}: a seed is given twice")
    baseline = document.baseline
    if baseline is not None and baseline not in (names := [variant.name for variant in variants]):
        raise InputError(f"{source.where(('baseline',))}: no recipe '{baseline}'; {nearest(baseline, names)}")
    return _checked(
        document.name, document.description, chosen, baseline, tuple(document.metrics), variants, source.text
    )


def _find(name: str) -> Path:
    """The file of a recipe or a study, whose names are suggested where there is none."""
    studies = shipped_studies()
    if name in studies:
        return studies[name]
    if not Path(name).exists() and Path(name).suffix not in (".yaml", ".yml") and name not in shipped_recipes():
        raise InputError(f"no study or recipe '{name}'; {nearest(name, [*studies, *shipped_recipes()])}")
    return find_recipe(name)


def _read_entry(
    source: YamlSource, place: Place, entry: Any, document: _Document, assignments: Sequence[str]
) -> Iterator[Variant]:
    """The variants of one entry of `recipes`."""
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if not isinstance(entry, dict):
        raise InputError(f"{source.where(place)}: expected a recipe, or the name or file of one")
    if "recipe" in entry:
        try:
            reference = _Reference.model_validate(entry)
        except ValidationError as error:
            raise InputError("\n".join(spell_out(error, _Reference, source, place))) from error
        path = source.path.parent / reference.recipe
        try:
            recipe = read_yaml(path if path.is_file() else find_recipe(reference.recipe))
        except InputError as error:
            raise InputError(f"{source.where((*place, 'recipe'))}: {error}") from error
        name, matrix = reference.name or recipe.path.stem, reference.matrix
    else:
        recipe = source.part(place, **{key: ("shared", key) for key in document.shared})
        name, matrix = str(entry.get("name", "")), recipe.data.pop("matrix", None)
    home: Place = place
    if matrix is None:
        matrix, home = document.matrix, ()
    elif not isinstance(matrix, dict) or not all(isinstance(v, list) and v for v in matrix.values()):
        raise InputError(f"{source.where((*place, 'matrix'))}: expected lists of values by parameter")
    for key in {"seed", "name", "description"} & matrix.keys():
        where = source.where((*home, "matrix", key))
        raise InputError(f"{where}: rows have their names and seeds of the study (`seeds:`); expected another key")
    if (rows := math.prod(map(len, matrix.values()))) > MOST_JOBS:
        raise InputError(f"{source.where((*home, 'matrix'))}: makes {rows:,} rows; expected at most {MOST_JOBS:,}")
    for values in itertools.product(*matrix.values()):
        parameters = dict(zip(matrix, values, strict=True))
        copy = recipe.copy()
        for key, value in parameters.items():
            copy.put(key, value, source.where((*home, "matrix", key)))
        yield _variant(copy, name, parameters, assignments)


def _variant(source: YamlSource, name: str, parameters: dict[str, Any], assignments: Sequence[str]) -> Variant:
    """Raises InputError where the recipe is wrong, and where `assignments` change what tells the rows apart."""
    if "search" in changed(source, assignments).data:
        raise InputError(f"{source.where(('search',))}: a study compares recipes that search nothing")
    for key, value in parameters.items():
        as_named = source.copy()
        as_named.put(key, value, f"matrix of '{name}'")
        if as_named.data != source.data:
            raise InputError(
                f"--set: changes {key}, of which the matrix of '{name}' makes rows; expected one of the two"
            )
    recipe = check_recipe(source)
    parts = [name, *(f"{key.rpartition('.')[2]}-{value}" for key, value in parameters.items())]
    full = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).lstrip("._-")[:LONGEST_NAME]
    source.data["name"] = full
    return Variant(full, parameters, source, recipe)


def _checked(
    name: str,
    description: str,
    seeds: Sequence[int],
    baseline: str | None,
    metrics: Sequence[str],
    variants: Sequence[Variant],
    text: str,
) -> Study:
    """The study with its jobs. Raises InputError where two rows have one name or are not scored alike."""
    first: dict[str, Variant] = {}
    for variant in variants:
        if variant.name in first:
            cut = f", cut at {LONGEST_NAME} characters" if len(variant.name) == LONGEST_NAME else ""
            raise InputError(
                f"{variant.source.where(())}: this row and that of {first[variant.name].source.where(())} are both "
                f"called '{variant.name}'{cut}"
            )
        first[variant.name] = variant
    first_recipe = variants[0].recipe
    for variant in variants:
        for key, value in _scored_by(variant.recipe).items():
            if value != (other := _scored_by(first_recipe)[key]):
                raise InputError(
                    f"{variant.recipe.where(())}: {variant.name} cannot be compared with {variants[0].name}: "
                    f"{key} is {value}, not {other}"
                )
    folds = _folds(first_recipe)
    if (count := len(seeds) * len(folds) * len(variants)) > MOST_JOBS:
        raise InputError(
            f"{name}: {len(variants)} rows, {len(seeds)} seeds and {len(folds)} folds are {count:,} jobs; expected at "
            f"most {MOST_JOBS:,}"
        )
    jobs = []
    for seed, fold, variant in itertools.product(seeds, folds, variants):
        source = variant.source.copy()
        source.data["seed"] = seed
        if fold is not None:
            source.data["data"]["split"]["fold"] = fold
        jobs.append(Job(variant.name, variant.parameters, seed, fold, check_recipe(source), source.as_yaml()))
    chosen = baseline or variants[0].name
    return Study(name, description, tuple(seeds), folds, chosen, tuple(metrics), tuple(jobs), text)


def _folds(recipe: Recipe) -> tuple[int | None, ...]:
    """All, where its split has some and names none."""
    split = recipe.data.split
    return (None,) if split is None or split.folds is None or split.fold is not None else tuple(range(split.folds))


def _scored_by(recipe: Recipe) -> dict[str, Any]:
    """All that must be equal where mAP is compared."""
    return {
        "data.root": recipe.data.root,
        "data.split": recipe.data.split and recipe.data.split.model_dump(),
        "data.test": recipe.data.test,
        "measure.protocol": recipe.measure.protocol,
        "measure.iou": recipe.measure.iou,
        "measure.max_detections": recipe.measure.max_detections,
    }
