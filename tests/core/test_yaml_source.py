"""Every value of a recipe knows its line, and `--set` changes one value."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detpress.errors import InputError, shortened
from detpress.recipe.yaml_source import YamlSource, read_yaml

TEXT = """\
name: x
data:
  root: here
chain:
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup:
"""


def source(text: str = TEXT) -> YamlSource:
    return YamlSource(Path("r.yaml"), text)


def test_place_of_a_nested_value_is_its_line_and_path() -> None:
    assert source().where(("chain", 0, "nni.l1norm", "sparsity")) == "r.yaml:5: chain[0].nni.l1norm.sparsity"


def test_place_of_a_missing_key_is_the_line_of_its_section() -> None:
    assert source().where(("data", "classes")) == "r.yaml:2: data.classes"


def test_floats_are_those_of_yaml_1_2() -> None:
    assert source("a: 3e-3\nb: 1E5").data == {"a": 0.003, "b": 1e5}


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("data.root=../there", lambda data: data["data"]["root"] == "../there"),
        ("seed=7", lambda data: data["seed"] == 7),
        ("measure.runtimes=[torch]", lambda data: data["measure"] == {"runtimes": ["torch"]}),
        ("chain[0].sparsity=0.9", lambda data: data["chain"][0] == {"nni.l1norm": {"sparsity": 0.9}}),
        ("chain[0].nni.l1norm.sparsity=0.9", lambda data: data["chain"][0] == {"nni.l1norm": {"sparsity": 0.9}}),
        ("chain[1].x=1", lambda data: data["chain"][1] == {"nni.speedup": {"x": 1}}),
    ],
)
def test_set_changes_one_value(assignment, read) -> None:
    changed = source()
    changed.set(assignment)
    assert read(changed.data)


@pytest.mark.parametrize("assignment", ["seed", "=1", "chain[5].x=1", "name.x=1", "[0]=1"])
def test_set_of_what_is_not_there_is_refused_with_the_assignment(assignment: str) -> None:
    with pytest.raises(InputError, match="--set"):
        source().set(assignment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", r"r.yaml:2: .*'a' given twice"),
        ("a: &x {b: 1}\nc: {<<: *x}", r"r.yaml:2: .*`<<` is not read; write the keys out"),
        ("a: [1\nb: 2", r"r.yaml:\d: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", r"r.yaml:1: not valid YAML"),
        ("1: x", r"r.yaml:1: .*no text"),
        ("", r"r.yaml: empty"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[" * 5000, "nested more than 50 deep"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n[b]: 2", r"r.yaml:2: .*a key is no text"),
        ("a: 1\n? {b: c}\n: 2", r"r.yaml:2: .*a key is no text"),
        ("a: 1\nb: !!int ''", r"r.yaml:2: .*'' is no int"),
        ("a: !!bool x", r"r.yaml:1: .*'x' is no bool"),
        ("a: !!float ''", r"r.yaml:1: .*'' is no float"),
        ("a: !!timestamp x", r"r.yaml:1: .*'x' is no timestamp"),
        ("a: 2001-99-99", r"r.yaml:1: .*'2001-99-99' is no timestamp; a text is given in quotes"),
        ("a: " + "9" * 5000, r"r.yaml:1: .*'999+\.\.\.999+' is no int"),
        ("[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("a: &a [*a, *a]", "nested more than 50 deep"),
    ],
)
def test_bad_yaml_is_one_line_that_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        source(text)
    assert "\n" not in str(error.value)


plain = st.recursive(
    st.integers() | st.booleans() | st.text("abc xyz", min_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1), plain, min_size=1))
def test_data_that_pyyaml_writes_is_read_back(data) -> None:
    assert source(yaml.safe_dump(data)).data == data


@given(st.text(max_size=60))
def test_any_text_is_data_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        source(text)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 27))


def test_aliases_of_aliases_are_refused_before_they_are_followed() -> None:
    """27 lines stand for 2^27 values."""
    with pytest.raises(InputError, match=r"r\.yaml:\d+: not valid YAML: aliases repeat more than 10,000 values"):
        source(BOMB)
    one = ", ".join(line.partition(": ")[2] for line in BOMB.splitlines())
    with pytest.raises(InputError, match="aliases repeat more than"):
        source("a: 1").set(f"a=[{one}]")
    assert source("a: &a [1, 2]\nb: [*a, *a]").data["b"] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    "value",
    [
        "2001-99-99\n",
        '"\\0"',
        "2001-99-99",
        "!!int ''",
        "!!bool x",
        "9" * 5000,
        "0x" + "f" * 5000,
        "1" + ":59" * 3000,
        "1" + ":59" * 3000 + ".5",
        "[" * 3000 + "]" * 3000,
        "{[a]: 1}",
    ],
)
def test_a_set_value_that_is_none_is_refused_in_a_message_no_longer_than_what_was_written(value: str) -> None:
    with pytest.raises(InputError, match=r"^--set a=") as refused:
        source("a: 1").set(f"a={value}")
    assert len(str(refused.value)) < len(value) + 120
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["chain[" + "9" * 5000 + "].x", "name." + "x" * 5000, "chain[0].\0"])
def test_a_set_path_is_shortened_in_the_message(path: str) -> None:
    with pytest.raises(InputError, match=r"^--set ") as refused:
        source().set(f"{path}=1")
    assert len(str(refused.value)) < 250
    assert "\0" not in str(refused.value)


def test_a_key_that_was_set_is_shortened_in_the_messages_about_it() -> None:
    changed = source()
    changed.set(f"{'x' * 5000}.y=1")
    assert len(changed.where(("x" * 5000, "y"))) < 250


@pytest.mark.parametrize("name", ["a\0b.yaml", "a" * 300 + ".yaml", "none.yaml"])
def test_a_path_that_cannot_be_read_is_named_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read") as refused:
        read_yaml(tmp_path / name)
    assert len(str(refused.value)) < len(str(tmp_path / name)) + 60
    assert "\0" not in str(refused.value)


def test_a_whole_number_of_thousands_of_digits_is_refused_with_its_line_in_whatever_notation() -> None:
    for number in ("9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20000, "1" + ":59" * 3000):
        with pytest.raises(InputError, match=r"r\.yaml:2: not valid YAML: .* is no int; a text is given in quotes"):
            source(f"name: a\nseed: {number}")
    assert shortened(16**5000) == shortened([16**5000]) == "a number of thousands of digits"


def test_no_text_holds_half_a_character() -> None:
    for text in ('seed: 0\nname: "a\\ud800"', 'seed: 0\n"a\\ud800": 1'):
        with pytest.raises(InputError, match=r"r\.yaml:2: "):
            source(text)


def test_no_text_holds_nul() -> None:
    """It would end a path in the middle."""
    with pytest.raises(InputError, match=r"r\.yaml:2: .*no path, name or text holds the character NUL"):
        source('a: 1\nb: ["x\\0"]')
