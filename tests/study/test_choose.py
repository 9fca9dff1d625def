"""Conditions are read, not evaluated; a Pareto front holds what nothing beats."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detpress.errors import InputError
from detpress.study.choose import pareto_front, parse_condition

FIGURES = {"map": 0.9, "macs": 2e6, "storage_bytes.on_disk": 1.5e6, "latency_ms.torch-compile.median": 4.0}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("map > 0.8", True),
        ("map >= 0.9 and macs<=2e6", True),
        ("latency_ms.torch-compile.median < 5 and storage_bytes.on_disk < 1e6", False),
        ("map < 0.5 or macs == 2000000", True),
        ("not map < 0.5", True),
        ("not (map > 0.5 or macs > 1)", False),
        ("map < 0.5 and macs > 1 or macs > 1", True),
        ("map < 0.5 and (macs > 1 or macs > 1)", False),
        ("macs != -.5", True),
        ("ap.dog > 0", False),
        ("not ap.dog > 0", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(FIGURES) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a figure such as map or storage_bytes.on_disk at the end"),
        ("map", "expected a comparison such as < at the end"),
        ("map >", "expected a number at the end"),
        ("map > macs", "expected a number at 'macs'"),
        ("map > 0.5 macs < 1", "expected `and`, `or` or the end at 'macs < 1'"),
        ("(map > 0.5", r"expected `\)` at the end"),
        ("map ( 1", r"expected a comparison such as < at '\( 1'"),
        ("__import__('os')", r"expected a figure, a number or a comparison at ''os'\)'"),
        ("map > 1; x", "expected a figure, a number or a comparison at '; x'"),
        ("not " * 60 + "map > 1", "expected at most 50 in each other"),
        ("map > 1 or " * 500 + "map > 1", "characters; expected at most 2000"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_condition(text)
    assert "\n" not in str(error.value)


words = st.sampled_from(["map", "and", "or", "not", "(", ")", "<", ">", "1", "-2e3", "x.y"])


@settings(deadline=None)
@given(st.text(max_size=80) | st.lists(words).map(" ".join))
def test_any_text_is_a_condition_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_condition(text).holds(FIGURES) in (True, False)


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@settings(deadline=None)
@given(points)
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(i: int) -> bool:
        cost, value = points[i]
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)

    front = pareto_front([cost for cost, _ in points], [value for _, value in points])
    assert sorted(front) == [i for i in range(len(points)) if not beaten(i)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
