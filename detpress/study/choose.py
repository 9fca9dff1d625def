"""Choosing among the rows of a comparison: conditions, the best, and Pareto fronts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from detpress.errors import InputError

Figures = Mapping[str, float]
Test = Callable[[Figures], bool]

LONGEST = 2000  # characters of a condition
DEEPEST = 50  # parentheses in each other
TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*)|(?P<operator><=|>=|==|!=|<|>|\(|\)))"
)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@dataclass(frozen=True)
class Condition:
    """`storage_bytes.on_disk < 2e6 and (map > 0.9 or not macs > 1e7)`.

    names: the figures that it asks for.
    holds: whether figures fulfil it; a comparison with a figure that is not there does not hold.
    """

    names: tuple[str, ...]
    holds: Test


def parse_condition(text: str) -> Condition:
    """Figures compared with numbers, joined by `and`, `or`, `not` and parentheses.

    Raises InputError that shows the place for anything else; nothing of the text is evaluated.
    """
    return _Parser(text).condition()


class _Parser:
    """Recursive descent: either is both {or both}, both is single {and single}, single is a comparison or (either)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self.depth = 0
        if len(text) > LONGEST:
            raise InputError(f"--where: {len(text)} characters; expected at most {LONGEST}")
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, place
        place = 0
        while text[place:].strip():
            found = TOKEN.match(text, place)
            if found is None:
                self._fail(len(text) - len(text[place:].lstrip()), "a figure, a number or a comparison")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind], found.start(kind)))
            place = found.end()
        self.next = 0

    def condition(self) -> Condition:
        test = self._either()
        if self.next < len(self.tokens):
            self._fail(self.tokens[self.next][2], "`and`, `or` or the end")
        return Condition(tuple(dict.fromkeys(self.names)), test)

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take("or"):
            tests.append(self._both())
        return lambda figures: any(test(figures) for test in tests)

    def _both(self) -> Test:
        tests = [self._single()]
        while self._take("and"):
            tests.append(self._single())
        return lambda figures: all(test(figures) for test in tests)

    def _single(self) -> Test:
        self.depth += 1
        if self.depth > DEEPEST:
            self._fail(self._place(), f"at most {DEEPEST} in each other")
        try:
            if self._take("not"):
                inner = self._single()
                return lambda figures: not inner(figures)
            if self._take("("):
                inner = self._either()
                if not self._take(")"):
                    self._fail(self._place(), "`)`")
                return inner
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Test:
        name = self._expect("name", "a figure such as map or storage_bytes.on_disk")
        place = self._place()
        compare = COMPARISONS.get(self._expect("operator", "a comparison such as <"))
        if compare is None:
            self._fail(place, "a comparison such as <")
        number = float(self._expect("number", "a number"))
        self.names.append(name)
        return lambda figures: name in figures and compare(figures[name], number)

    def _take(self, word: str) -> bool:
        found = self.next < len(self.tokens) and self.tokens[self.next][1] == word
        self.next += found
        return found

    def _expect(self, kind: str, what: str) -> str:
        token = self.tokens[self.next] if self.next < len(self.tokens) else ("", "", 0)
        if token[0] != kind or token[1] in ("and", "or", "not"):
            self._fail(self._place(), what)
        self.next += 1
        return token[1]

    def _place(self) -> int:
        return self.tokens[self.next][2] if self.next < len(self.tokens) else len(self.text)

    def _fail(self, place: int, expected: str) -> NoReturn:
        shown = f"at '{self.text[place : place + 20]}'" if self.text[place:].strip() else "at the end"
        raise InputError(f"--where '{self.text[:80]}': expected {expected} {shown}")


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: none has a cost as low and a value as high, and one of them better.

    Equal points are all on the front. In the order of rising costs.
    """
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        best = front[-1] if front else None
        if best is None or values[i] > values[best] or (costs[i], values[i]) == (costs[best], values[best]):
            front.append(i)
    return front
