"""The contract between detpress and a method that chooses numbers: tuners propose them, assessors end a trial early.

Both are found as plugins are, by the entry-point groups `detpress.tuners` and `detpress.assessors`, and are named in
a recipe's section `search`. A tuner knows nothing of recipes. It is asked for values and told how good they were,

    proposals = tuner.start(space, config, seed, log)
    values = proposals.ask()                     {"chain[0].sparsity": 0.53}
    proposals.tell(values, score)

and with the same seed and the same scores it proposes the same values. That is how a search goes on after a kill:
it begins anew, and all trials that are done cost nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from detpress.options import Options

if TYPE_CHECKING:
    import logging

Kind = Literal["uniform", "quniform", "loguniform", "qloguniform", "randint", "choice"]


@dataclass(frozen=True)
class Distribution:
    """What one number may be, named as NNI's search spaces name it.

    uniform, loguniform: [low, high]. quniform, qloguniform: [low, high, q], rounded to multiples of q; whole numbers
    where all three are whole. randint: [low, high), whole numbers. choice: one of `arguments`, of any type.
    """

    kind: Kind
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.kind} {list(self.arguments)}"

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        integers = all(isinstance(argument, int) for argument in self.arguments)
        return self.kind == "randint" or (self.kind in ("quniform", "qloguniform") and integers)

    def ends(self) -> tuple[Any, ...]:
        """The values that a recipe is checked with: all of a choice, the lowest and the highest of the others."""
        if self.kind == "choice":
            return self.arguments
        low, high = self.arguments[0], self.arguments[1] - (1 if self.kind == "randint" else 0)
        return (low, high) if self.whole else (float(low), float(high))


Space = Mapping[str, Distribution]  # key of the recipe, such as `chain[0].sparsity` -> what it may be


class Proposals(Protocol):
    """A tuner at work. Values are asked for one trial at a time, and each trial is told before the next is asked."""

    def ask(self) -> dict[str, Any] | None:
        """A value for every key of the space; None when the tuner has tried all that it wants to."""

    def tell(self, values: dict[str, Any], score: float) -> None:
        """How good the trial was: the larger, the better; -1 for one that failed (see `detpress.run.search.score`)."""


class Tuner(ABC):
    """A method of choosing values. Its docstring is its card: what it does, and the citation."""

    Config: ClassVar[type[Options]]
    unavailable: ClassVar[str | None] = None  # why it can never run here, where that is so; listed, refused in recipes
    engine: ClassVar[str | None] = None  # the distribution that does the work
    extra: ClassVar[tuple[str, str] | None] = None  # another that it needs, and the extra of its package that brings it

    def space(self, space: Space, config: Any) -> Space:
        """The space with what the tuner itself decides beside it.

        Raises InputError where the tuner cannot search it.
        """
        return space

    @abstractmethod
    def start(self, space: Space, config: Any, seed: int, log: "logging.Logger") -> Proposals:
        """The proposals, drawn by `seed`; the global generators are left as they were."""


class Judge(Protocol):
    """An assessor at work."""

    def hopeless(self, trial: int, history: list[float]) -> bool:
        """Whether the trial need not go on. history: the objective after each stage so far, the larger the better."""

    def end(self, trial: int, history: list[float], finished: bool) -> None:
        """The trial is over; `finished`: it came to its end."""


class Assessor(ABC):
    """A rule for ending a trial before its last stage. Its docstring is its card."""

    Config: ClassVar[type[Options]]
    unavailable: ClassVar[str | None] = None
    engine: ClassVar[str | None] = None
    extra: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def start(self, stages: int, config: Any, log: "logging.Logger") -> Judge:
        """stages: how many results a trial gives when it comes to its end: one after each step of the chain."""
