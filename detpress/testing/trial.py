"""A plugin on trial: what its checks ask for, made once."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from unittest import SkipTest

from detpress.contract.plugin import Plugin
from detpress.detector.form import Form
from detpress.encodings.bundle import load_bundle
from detpress.errors import InputError
from detpress.options import Options
from detpress.recipe.file import Recipe
from detpress.testing import cases
from detpress.testing.application import Application, Asked, apply
from detpress.testing.cases import Case
from detpress.training.image_counts import ImageCounts


class BrokenPromiseError(AssertionError):
    """What the plugin does not keep, and what to change."""


class Trial:
    """A plugin with its options, and what is found of it on the way from check to check."""

    def __init__(self, asked: Asked) -> None:
        """Raises InputError for an unknown or broken plugin, and for wrong options."""
        self.asked = asked
        self._root = tempfile.TemporaryDirectory(prefix="detpress-check-")
        self._count = 0
        self.recipe = self._recipe(cases.TINY)
        [step] = self.recipe.chain
        self.plugin: Plugin = step.plugin
        self.config: Options = step.config

    @property
    def forms(self) -> list[Form]:
        """Those that the plugin accepts and a model can be made in; the plainest first."""
        return [form for form in cases.IN_FORM if form in self.plugin.accepts]

    @property
    def case(self) -> Case:
        """What it is tried on where nothing else is asked for."""
        if not self.forms:
            raise SkipTest(f"no model can be made of the forms {', '.join(sorted(self.plugin.accepts))}")
        return replace(cases.TINY, form=self.forms[0])

    def new_folder(self) -> Path:
        """One that is not there yet."""
        self._count += 1
        return Path(self._root.name) / f"new-{self._count}"

    def _recipe(self, case: Case) -> Recipe:
        return self.asked.recipe(cases.written(case))

    def apply_to(self, case: Case, data: Path | None = None, scratch: Path | None = None) -> Application:
        """data: another folder than the case's. Raises SkipTest where the plugin refuses the case before it begins,
        and whatever it raises then."""
        recipe = self._recipe(case)
        if data is not None:
            recipe = replace(recipe, data=recipe.data.model_copy(update={"root": str(data)}))
        [step] = recipe.chain
        given = load_bundle(cases.written(case) / "bundle")
        counts = ImageCounts("train", cases.IMAGES["train"], cases.IMAGES["train"], cases.IMAGES["val"])
        try:
            step.plugin.check(given, step.config, counts)
            step.plugin.plan(given, step.config)
        except InputError as error:
            raise SkipTest(f"refused: {error}") from None
        return apply(recipe, cases.written(case), scratch or self.new_folder())

    @cached_property
    def attempt(self) -> Application | Exception:
        """The first application, or what was raised."""
        try:
            return self.apply_to(self.case)
        except Exception as error:
            return error

    @property
    def first(self) -> Application:
        """Raises SkipTest where there is none."""
        if isinstance(self.attempt, Exception):
            raise SkipTest("it could not be applied")
        return self.attempt

    @cached_property
    def second(self) -> Application | Exception:
        """The same once more, where the test images are gone."""
        data = self.new_folder()
        cases.without_test_images(cases.written(self.case) / "data", data)
        try:
            return self.apply_to(self.case, data)
        except Exception as error:
            return error

    def must_repeat(self) -> None:
        """Raises SkipTest where the plugin says that the same options may give another model."""
        if not self.plugin.repeats(self.config):
            raise SkipTest("says that it does not repeat")
