"""YAML with the place of every value, so that an error can name its line."""

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from detpress.errors import InputError, cut_short, nearest, shortened
from detpress.files.lines_of_yaml import LoaderWithLines, refuse
from detpress.files.plain import plain
from detpress.options import Place
from detpress.recipe.sections import Running
from detpress.training.named_objective import NamedObjective, load_objective

DEEPEST = 50
BESIDE = frozenset(Running.model_fields)  # keys of a step that are no plugin
MOST_REPEATED = 10_000  # values that stand in a document by way of an alias: a few lines could stand for any number

NO_TEXT = re.compile(r"[\0\ud800-\udfff]")  # in no path, and in no UTF-8


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; it quotes what `_Loader` would take for a number."""


class _Loader(LoaderWithLines):
    """With floats as YAML 1.2 has them (`3e-3` is a number) and duplicate keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                refuse("`<<` is not read; write the keys out", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                refuse(f"key {shortened(key)} is no text", key_node.start_mark)
            if key in seen:
                refuse(f"key {shortened(key)} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _language in (_Loader, _Dumper):
    _language.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


class YamlSource:
    """A document's plain data, and where each part of it stands.

    Raises InputError, naming file and line, for what is no YAML or nests more than 50 deep.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text  # as read, before any `set`
        self._lines: dict[Place, int]
        self._set: dict[Place, str] = {}
        self._homes: dict[Place, Place] = {(): ()}  # where in the file the parts of `data` stand
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is None:
                raise InputError(f"{path}: empty; expected a recipe")
            self._lines = dict(_lines(node, (), set(), []))
            self.data: Any = loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise InputError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
        except RecursionError:
            raise InputError(f"{path}: nested more than {DEEPEST} deep") from None

    def part(self, place: Place, **shared: Place) -> "YamlSource":
        """The value at `place` as a source of its own, whose errors still name this file's lines and keys.

        shared: places in this document that stand in for keys which the value, a mapping, does not have.
        """
        found = copy.copy(self)
        found.data = copy.deepcopy(_value_at(self.data, place))
        found._set = {}
        found._homes = {(): place}
        for key, home in shared.items():
            if key not in found.data:
                found.data[key] = copy.deepcopy(_value_at(self.data, home))
                found._homes[(key,)] = home
        return found

    def copy(self) -> "YamlSource":
        """Another source of the same document, to be changed by `set` and `put` on its own."""
        found = copy.copy(self)
        found.data, found._set = copy.deepcopy(self.data), dict(self._set)
        return found

    def as_yaml(self) -> str:
        """The data as YAML, as it is now."""
        return yaml.dump(self.data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

    def where(self, place: Place) -> str:
        """`FILE:LINE: a.b[0].c` for the value at `place`, or what was said when it was set."""
        for length in range(len(place), -1, -1):
            if place[:length] in self._set:
                return f"{self._set[place[:length]]}: {cut_short(spell(place))}"
        home = next(place[:length] for length in range(len(place), -1, -1) if place[:length] in self._homes)
        in_file = (*self._homes[home], *place[len(home) :])
        for length in range(len(in_file), -1, -1):
            if in_file[:length] in self._lines:
                return f"{self.path}:{self._lines[in_file[:length]]}: {cut_short(spell(in_file))}".removesuffix(": ")
        return str(self.path)

    def is_set(self, place: Place) -> bool:
        """Whether the value at `place`, or the nearest one around it that was set, came from the command line."""
        said = next((self._set[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self._set), "")
        return said.startswith("--set ")

    def set(self, assignment: str) -> None:
        """Changes one value by `a.b[0].c=VALUE`, VALUE being YAML; keys that are missing are added.

        The step of a chain holds its options under the plugin's name, which may be left out: `chain[0].sparsity=0.5`,
        and so does an objective: `chain[0].objectives[0].weight=0.1`. Beside the name stands how a step runs:
        `chain[0].timeout=60`; an option of the plugin called so is `chain[0].NAME.timeout`.
        Raises InputError for a path through something that is neither a mapping nor a list.
        """
        said = f"--set {cut_short(assignment)}"
        path, separator, value = assignment.partition("=")
        if not separator or not _keys(path):
            raise InputError(f"{said}: expected KEY=VALUE, such as --set seed=1 or --set chain[0].sparsity=0.5")
        if "\0" in assignment:
            raise InputError(f"{said}: no path, name or text holds the character NUL")
        try:
            loader = _Loader(value)
            node = loader.get_single_node()
            parsed = None
            if node is not None:
                for _ in _lines(node, (), set(), []):
                    pass
                parsed = loader.construct_document(node)
        except yaml.constructor.ConstructorError as error:
            raise InputError(f"{said}: {error.problem}") from error
        except yaml.YAMLError:
            parsed = value
        except RecursionError:
            raise InputError(f"{said}: nested more than {DEEPEST} deep") from None
        self.put(path, parsed, said)

    def put(self, path: str, value: Any, said: str) -> None:
        """Changes one value as `set` does; `said` is what an error about it begins with."""
        keys = _keys(path)
        place: list[str | int] = []
        target = self.data
        while True:
            if _is_named(place) and isinstance(target, dict) and (name := _name_in(target, place, keys[0])):
                rest = name.split(".")
                keys = keys[len(rest) :] if keys[: len(rest)] == rest else keys
                if target[name] is None:
                    target[name] = {}
                target = target[name]
                place.append(name)
            key, *keys = keys or [""]
            if isinstance(target, list) and isinstance(key, int) and key < len(target):
                place.append(key)
            elif isinstance(target, dict) and isinstance(key, str) and key:
                place.append(key)
                if keys:
                    target.setdefault(key, {})
            else:
                raise InputError(
                    f"{said}: nothing called {shortened(str(key))} in {cut_short(spell(tuple(place))) or 'the recipe'}"
                )
            if not keys:
                target[key] = value
                self._set[tuple(place)] = said
                return
            target = target[key]


def read_yaml(path: Path) -> YamlSource:
    """The document in `path`. Raises InputError as `YamlSource` does, and for a file that cannot be read."""
    try:
        text = plain(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8; a path with the character NUL
        raise InputError(f"{shortened(str(path))}: cannot be read: {error}") from error
    return YamlSource(path, text)


def _lines(node: yaml.Node, place: Place, seen: set[int], repeated: list[int]) -> Iterator[tuple[Place, int]]:
    """The line of every value below `node`.

    seen, repeated: nodes that were met, by identity, and those met again: what aliases stand for.
    Raises ConstructorError for what nests too deep, repeats too much, or has a key that is no text.
    """
    if id(node) in seen:
        repeated.append(id(node))
    seen.add(id(node))
    if len(place) > DEEPEST:
        refuse(f"nested more than {DEEPEST} deep", node.start_mark)
    if len(repeated) > MOST_REPEATED:
        refuse(f"aliases repeat more than {MOST_REPEATED:,} values", node.start_mark)
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and NO_TEXT.search(node.value):
        refuse("no path, name or text holds the character NUL, or half of a pair of surrogates", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or NO_TEXT.search(key_node.value):
                refuse("a key is no text", key_node.start_mark)
            inner = (*place, key_node.value)
            yield from _lines(value_node, inner, seen, repeated)
            yield inner, key_node.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _lines(item, (*place, i), seen, repeated)


def _keys(path: str) -> list[str | int]:
    """`chain[0].sparsity` -> `["chain", 0, "sparsity"]`; empty where the path is spelled otherwise."""
    if not re.fullmatch(r"[^.\[\]]+(\[[0-9]{1,9}\]|\.[^.\[\]]+)*", path):
        return []
    return [int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"\[[0-9]+\]|[^.\[\]]+", path)]


def _value_at(data: Any, place: Place) -> Any:
    for key in place:
        data = data[key]
    return data


def spell(place: Place) -> str:
    """`('chain', 0, 'nni.l1norm', 'sparsity')` -> `chain[0].nni.l1norm.sparsity`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _is_named(place: list[str | int]) -> bool:
    """Whether what is there has its options under a name: a step of the chain, or an objective of a step."""
    return place[0:-1] == ["chain"] or (len(place) > 3 and place[-2] == "objectives")


def _name_in(named: dict[str, Any], place: list[str | int], key: str | int) -> str | None:
    """The name under which `key` is looked for in what stands at `place`; None for what a step has beside it."""
    beside = BESIDE if place[0:-1] == ["chain"] else frozenset()
    names = [name for name in named if name not in beside]
    return names[0] if len(names) == 1 and key not in beside else None


def spell_out(error: ValidationError, model: type[BaseModel], source: YamlSource, at: Place) -> Iterator[str]:
    """pydantic's findings, one line each, in the words of the file."""
    for finding in error.errors():
        place: Place = (*at, *finding["loc"])
        where = source.where(place)
        if finding["type"] == "extra_forbidden":
            meant = _same_key_near(model, finding["loc"])
            known = _fields_at(model, finding["loc"][:-1])
            way = f"did you mean {spell((*at, *meant))}?" if meant else nearest(str(finding["loc"][-1]), known)
            yield f"{where}: unknown key; {way}"
        elif finding["type"] == "missing":
            yield f"{where}: missing"
        elif finding["type"] == "unknown_name":
            yield f"{where}: {finding['msg']}"
        else:
            message = finding["msg"].removeprefix("Value error, ")
            expected = message.replace("Input should be ", "expected ", 1)
            of_several_keys = finding["type"] == "value_error" and isinstance(finding["input"], dict)
            got = "" if expected.endswith("?") or of_several_keys else f", got {shortened(finding['input'])}"
            yield f"{where}: {expected[0].lower()}{expected[1:]}{got}"


def _same_key_near(model: type[BaseModel], loc: Place) -> Place | None:
    """Where a key of this name is known: in a section around the one that it stands in, or in one within that."""
    *section, key = loc
    around = [section[:depth] for depth in reversed(range(len(section)))]
    within = [[*section, name] for name in _fields_at(model, section)]
    return next(((*place, key) for place in [*around, *within] if key in _fields_at(model, place)), None)


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the keys allowed in the section that `loc` leads to."""
    for place, part in enumerate(loc):
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if NamedObjective in get_args(annotation):
            if len(loc) < place + 3:  # the list, or one of its entries
                return []
            _, name, *rest = loc[place + 1 :]
            return _fields_at(load_objective(str(name)).Config, rest)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
