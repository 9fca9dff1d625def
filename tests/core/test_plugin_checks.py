"""Each broken promise is found, and said with what to change. Who keeps them all is in test_starter.py."""

from collections.abc import Callable
from unittest import SkipTest

import pytest
from distribution import Install

from detpress.errors import InputError
from detpress.testing import BrokenPromiseError, PluginCheck, checks_of

CARELESS = """
from detpress.api import Form, Options, Plan, Plugin
from pydantic import Field, field_validator


class Halves(Plugin):
    'Halves the weights of the first convolution.'

    class Config(Options):
        factor: float = Field(0.5, gt=0, description="what they are multiplied by")

    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None

    def apply(self, model, config, bench):
        import copy

        network = copy.deepcopy(model.network)
        network.layers[0].convolution.weight.data.mul_(config.factor)
        return model.with_network(network)


class Silent(Halves):
    'An option without a meaning.'

    class Config(Options):
        factor: float


class Shapes(Halves):
    'An option that is read as another than was written.'

    class Config(Options):
        factor: float = Field(0.5, description="what they are multiplied by")

        @field_validator("factor")
        @classmethod
        def _smaller(cls, given):
            return given / 2


class Fails(Halves):
    def apply(self, model, config, bench):
        raise KeyError("layers.99")


class Forgets(Halves):
    def apply(self, model, config, bench):
        super().apply(model, config, bench)


class Renames(Halves):
    def apply(self, model, config, bench):
        from dataclasses import replace

        from detpress.api import new_model

        return new_model(replace(model.architecture, classes=tuple("abcdefghij")), 0)


class Idles(Halves):
    def apply(self, model, config, bench):
        return model


class Overwrites(Halves):
    def apply(self, model, config, bench):
        model.network.layers[0].convolution.weight.data.mul_(0.5)
        return super().apply(model, config, bench)


class Promises(Halves):
    returns = Form.MASKED


class Plans(Halves):
    def plan(self, model, config):
        return Plan(("layers.99",), model)


class Dices(Halves):
    def apply(self, model, config, bench):
        import os

        found = super().apply(model, config, bench)
        found.network.layers[0].convolution.weight.data.mul_(1 + os.urandom(1)[0] + os.urandom(1)[0] / 256)
        return found


class Peeks(Halves):
    def apply(self, model, config, bench):
        for name in (bench.devkit.root / "ImageSets/Main/test.txt").read_text().split():
            (bench.devkit.root / "JPEGImages" / f"{name}.jpg").read_bytes()
        return super().apply(model, config, bench)


class Prints(Halves):
    def apply(self, model, config, bench):
        print("halved")
        return super().apply(model, config, bench)


class Litters(Halves):
    def apply(self, model, config, bench):
        open("halves.txt", "w").close()
        return super().apply(model, config, bench)


class Wanders(Halves):
    def apply(self, model, config, bench):
        import os

        os.chdir("/")
        return super().apply(model, config, bench)


class Spins(Halves):
    def apply(self, model, config, bench):
        import threading

        threading.Thread(target=threading.Event().wait, name="spinner", daemon=True).start()
        return super().apply(model, config, bench)


class OnlyTen(Halves):
    def apply(self, model, config, bench):
        from detpress.api import StageError

        if len(model.architecture.classes) != 10:
            raise StageError("ten classes only")
        return super().apply(model, config, bench)


class SaysOnlyTen(OnlyTen):
    def check(self, model, config, images):
        from detpress.api import InputError

        if len(model.architecture.classes) != 10:
            raise InputError("factor: halves ten classes only")
"""

Checks = Callable[[str], dict[str, PluginCheck]]


@pytest.fixture
def checks(install: Install) -> Checks:
    """The checks, by name, of a plugin that is installed."""
    kinds = [line.split()[1].partition("(")[0] for line in CARELESS.splitlines() if line.startswith("class ")]
    entries = "".join(f"mine.{kind.lower()} = careless_plugins:{kind}\n" for kind in kinds)
    install("careless", "0.1", {"careless_plugins.py": CARELESS}, f"[detpress.plugins]\n{entries}")
    return lambda name: {str(check): check for check in checks_of(f"mine.{name}", {"factor": 0.5})}


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        ("idles", "documented", "The class has no docstring: what it does, in a line, and the paper's citation."),
        ("silent", "documented", "Options without a meaning: factor. Give each a Field"),
        (
            "shapes",
            "options",
            "Options written into a recipe are read as others: factor. Let validators change nothing.",
        ),
        ("fails", "applies", "KeyError: 'layers.99'. Where options are to blame, give others"),
        ("forgets", "applies", "StageError: `apply` gives no Model with a Network; make it by model."),
        ("renames", "result", "`apply` gives a model of another classes. Keep those of the given one."),
        ("idles", "changes", "The model that comes out is the one that went in. Raise StageError"),
        ("overwrites", "given", r"The given model is changed: layers.0.convolution.weight. Work on copy.deepcopy"),
        ("promises", "forms", "A dense model becomes dense, not masked. Correct `returns` or `accepts`"),
        ("plans", "plan", "The plan names layers that are not there: layers.99. Use model.architecture.names."),
        ("dices", "repeats", "Applied twice, it gives two models: layers.0.convolution.weight. Draw from bench.seed"),
        ("peeks", "test images", "Where the test images are gone, it fails"),
        ("prints", "output", r"It prints 'halved\n' on the standard output. Use bench.log."),
        ("litters", "folder", "It leaves halves.txt in the working folder. Write below bench.scratch"),
        ("wanders", "folder", "It goes to another working folder. Write below bench.scratch"),
        ("spins", "threads", "Threads go on after `apply`: spinner. Join them there."),
        ("onlyten", "one class", "It fails: ten classes only. Refuse in `check` or `plan` what it cannot do."),
    ],
)
def test_a_broken_promise_is_told_with_what_to_change(checks: Checks, plugin: str, check: str, said: str) -> None:
    with pytest.raises(BrokenPromiseError) as broken:
        checks(plugin)[check]()
    assert str(broken.value).startswith(said)


def test_what_is_refused_before_it_begins_is_no_broken_promise(checks: Checks) -> None:
    with pytest.raises(SkipTest, match="refused: factor: halves ten classes only"):
        checks("saysonlyten")["one class"]()


def test_unknown_plugins_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown plugin 'prune.magnitud'; did you mean 'prune.magnitude'"):
        checks_of("prune.magnitud")
    with pytest.raises(InputError, match=r"sparsity: missing"):
        checks_of("prune.magnitude")
