"""The section `search` of a recipe: which numbers of the chain are searched, by which tuner, and what is wanted.

search:
  space:
    chain[0].sparsity: {uniform: [0.3, 0.9]}
    chain[2].learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
  tuner: nni.tpe                           # or `nni.tpe: {startup: 5}`
  trials: 20
  maximize: map                            # a name of results.json's metrics
  subject_to: {macs: "<= 0.3x", latency_ms.openvino.median: "<= 5"}
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from detpress.contract.registry import load_assessor, load_tuner
from detpress.contract.tuner import Assessor, Distribution, Kind, Space, Tuner
from detpress.errors import InputError, nearest, shortened
from detpress.measure.figures import check_figure
from detpress.measure.section import Measure
from detpress.options import Options, Place
from detpress.recipe.named import read_named
from detpress.recipe.yaml_source import YamlSource, spell_out

KINDS: tuple[Kind, ...] = get_args(Kind)
Sense = Literal["<=", ">=", "<", ">"]


class SearchSection(Options):
    """The section as the file has it."""

    space: dict[str, Any] = Field(min_length=1, description="key of the chain -> {distribution: arguments}")
    tuner: Any = Field("nni.tpe", description="what proposes values: a name, or {name: options}")
    trials: int = Field(ge=1, le=100_000, description="chains that are run at most")
    maximize: str | None = Field(None, description="metric of the last stage that shall be large")
    minimize: str | None = Field(None, description="metric of the last stage that shall be small")
    subject_to: dict[str, str] = Field({}, description='metric -> limit: "<= 5", or "<= 0.3x" of stage 0\'s')
    stop_early: Any = Field(None, description="what ends a trial before its last stage: a name, or {name: options}")

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("expected either `maximize` or `minimize`")
        return self


@dataclass(frozen=True)
class Condition:
    """A limit on a metric of a trial's last stage.

    relative: the limit is a share of what stage 0, the model before the chain, has.
    """

    metric: str
    sense: Sense
    limit: float
    relative: bool

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.limit:g}{'x' if self.relative else ''}"

    def violation(self, value: float, reference: float) -> float:
        """By what share of the limit it is missed, or by what amount where the limit is 0; 0 when it is met."""
        limit = self.limit * reference if self.relative else self.limit
        met = {"<=": value <= limit, ">=": value >= limit, "<": value < limit, ">": value > limit}[self.sense]
        return 0.0 if met else max(abs(value - limit) / (abs(limit) or 1.0), 1e-9)


@dataclass(frozen=True)
class Search:
    """The checked section.

    space: the keys that are searched, those that the tuner decides by itself among them.
    """

    space: Space
    tuner_name: str
    tuner: Tuner
    tuner_config: Options
    trials: int
    metric: str
    maximize: bool
    conditions: tuple[Condition, ...]
    assessor_name: str | None
    assessor: Assessor | None
    assessor_config: Options | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured of a trial: the objective, then what is limited."""
        return tuple(dict.fromkeys([self.metric, *(condition.metric for condition in self.conditions)]))

    def as_dict(self) -> dict[str, Any]:
        """Plain data with every default spelled out."""
        return {
            "space": {key: {of.kind: list(of.arguments)} for key, of in self.space.items()},
            "tuner": {self.tuner_name: self.tuner_config.model_dump(mode="json")},
            "trials": self.trials,
            "maximize" if self.maximize else "minimize": self.metric,
            "subject_to": [str(condition) for condition in self.conditions],
            "stop_early": (
                {self.assessor_name: self.assessor_config.model_dump(mode="json")} if self.assessor_config else None
            ),
        }


def read_search(source: YamlSource) -> tuple[Search, list[dict[str, Any]]]:
    """The checked section, and the values to check the rest of the recipe with: all first ones, then each other end."""
    mistakes: list[str] = []
    try:
        section = SearchSection.model_validate(source.data["search"])
    except ValidationError as error:
        raise InputError("\n".join(spell_out(error, SearchSection, source, ("search",)))) from error

    def tried(place: Place, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except InputError as error:
            mistakes.append(f"{source.where(place)}: {error}")

    space: dict[str, Any] = {}
    for key, value in section.space.items():
        place: Place = ("search", "space", key)
        if not re.fullmatch(r"chain\[[0-9]+\]\..+", key):
            mistakes.append(f"{source.where(place)}: expected an option of a step, such as chain[0].sparsity")
        space[key] = tried(place, partial(read_distribution, value))
    runtimes = _runtimes(source)
    objective: Any = section.maximize or section.minimize
    tried(("search", "maximize" if section.maximize else "minimize"), partial(check_metric, objective, runtimes))
    conditions = []
    for metric, limit in section.subject_to.items():
        place = ("search", "subject_to", metric)
        tried(place, partial(check_metric, metric, runtimes))
        conditions.append(tried(place, partial(read_condition, metric, limit)))
    tuner = read_named(
        section.tuner, ("search", "tuner"), load_tuner, "tuner", "nni.tpe: {startup: 5}", source, mistakes
    )
    assessor = None
    if section.stop_early is not None:
        place = ("search", "stop_early")
        assessor = read_named(
            section.stop_early, place, load_assessor, "assessor", "nni.medianstop: {}", source, mistakes
        )
    whole: Space = space
    if tuner and not mistakes:
        whole = tried(("search", "tuner"), partial(tuner[1].space, space, tuner[2]))
    if mistakes or tuner is None:
        raise InputError("\n".join(mistakes))
    first = {key: of.ends()[0] for key, of in whole.items()}
    ends = [first, *({**first, key: end} for key, of in whole.items() for end in of.ends()[1:])]
    search = Search(
        whole,
        *tuner,
        section.trials,
        objective,
        section.maximize is not None,
        tuple(conditions),
        *(assessor or (None, None, None)),
    )
    return search, ends


def _runtimes(source: YamlSource) -> list[str]:
    """What the recipe says of runtimes, or the default, whatever else is wrong with it."""
    measure = source.data.get("measure")
    try:
        return list((Measure() if measure is None else Measure.model_validate(measure)).runtimes)
    except ValidationError:
        return []


def read_distribution(value: Any) -> Distribution:
    """`{uniform: [0.3, 0.9]}` as a distribution. Raises InputError that says what was expected."""
    if not isinstance(value, dict) or len(value) != 1:
        raise InputError(
            f"expected one distribution with its arguments, such as {{uniform: [0.3, 0.9]}}, got {shortened(value)}"
        )
    kind, arguments = next(iter(value.items()))
    if kind not in KINDS:
        raise InputError(f"unknown distribution {shortened(str(kind))}; {nearest(str(kind), KINDS)}")
    if kind == "choice":
        if not isinstance(arguments, list) or not arguments:
            raise InputError(f"choice: expected a list of values, got {shortened(arguments)}")
        return Distribution(kind, tuple(arguments))
    form = "[low, high, q]" if kind.startswith("q") else "[low, high]"
    count = form.count(",") + 1
    if not isinstance(arguments, list) or len(arguments) != count or not all(map(_is_number, arguments)):
        raise InputError(f"{kind}: expected {form}, {count} numbers, got {shortened(arguments)}")
    if kind == "randint" and not all(isinstance(argument, int) for argument in arguments):
        raise InputError(f"randint: expected whole numbers, got {shortened(arguments)}")
    if not arguments[0] < arguments[1]:
        raise InputError(f"{kind}: expected low < high, got {shortened(arguments)}")
    if "log" in kind and arguments[0] <= 0:
        raise InputError(f"{kind}: expected low > 0, got {shortened(arguments)}")
    if count == 3 and arguments[2] <= 0:
        raise InputError(f"{kind}: expected q > 0, got {shortened(arguments)}")
    return Distribution(kind, tuple(arguments))


def read_condition(metric: str, limit: str) -> Condition:
    """`macs`, `<= 0.3x` as a condition. Raises InputError that says what was expected."""
    found = re.fullmatch(r"\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(x?)\s*", limit)
    if not found:
        raise InputError(f'expected a limit such as "<= 5", or "<= 0.3x" of stage 0\'s, got {shortened(limit)}')
    sense: Any = found[1]
    return Condition(metric, sense, float(found[2]), found[3] == "x")


def check_metric(name: str, runtimes: Sequence[str]) -> None:
    """Raises InputError for a figure that no stage has; `runtimes`: those that the recipe measures.

    How long a stage took is no figure to search by: it is another one tomorrow.
    """
    check_figure(name)
    if name == "seconds":
        raise InputError("seconds: expected a figure of the model, such as macs or latency_ms.torch.median")
    family, _, rest = name.partition(".")
    if family not in ("latency_ms", "map_by_runtime"):
        return
    runtime, _, statistic = rest.rpartition(".") if family == "latency_ms" else (rest, "", "")
    if runtime not in runtimes:
        what = "latency" if family == "latency_ms" else "mAP"
        raise InputError(
            f"no {what} of {shortened(runtime)} is measured; expected one of measure.runtimes: {', '.join(runtimes)}"
        )
    if family == "latency_ms" and statistic not in ("median", "p95"):
        raise InputError(f"expected latency_ms.{runtime}.median or latency_ms.{runtime}.p95, got {shortened(name)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
