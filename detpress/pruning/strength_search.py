"""How strong a pruner must be set that cannot be asked for a share: tried, and the settings in between tried next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FACTOR = 3.0  # from one strength to the next, until one removes too little and one enough


@dataclass(frozen=True)
class Trial:
    """strength: a factor on the settings as they are given. removed: the share that went."""

    strength: float
    removed: float


def next_strength(trials: Sequence[Trial], goal: float) -> float:
    """1 at first; then three times or a third, until the goal lies between two; then their geometric mean."""
    enough = [trial.strength for trial in trials if trial.removed >= goal]
    too_little = [trial.strength for trial in trials if trial.removed < goal]
    if enough and too_little:
        return math.sqrt(min(enough) * max(too_little))
    if enough:
        return min(enough) / FACTOR
    return FACTOR * max(too_little) if too_little else 1.0


def best_trial(trials: Sequence[Trial], goal: float) -> Trial:
    """Of those that remove the goal or more, the one that removes least; where none does, the one that removes most."""
    enough = [trial for trial in trials if trial.removed >= goal]
    return min(enough, key=lambda trial: trial.removed) if enough else max(trials, key=lambda trial: trial.removed)
