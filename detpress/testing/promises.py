"""What every plugin promises, a function a promise: each looks at a trial.

It raises `BrokenPromiseError`, which says what to change, or `unittest.SkipTest`, where there is nothing to look at.
"""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import torch

from detpress.contract.plugin import Plan
from detpress.contract.registry import PLUGINS, SLOW
from detpress.detector.form import Form
from detpress.detector.model import Model, difference
from detpress.doors import entry_named
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError, StageError, cut_short
from detpress.measure.size import macs, parameter_count
from detpress.options import Options
from detpress.run.application import other_kind
from detpress.testing import cases
from detpress.testing.application import (
    Application,
    Asked,
    apply_elsewhere,
    maps,
    maps_elsewhere,
    python,
)
from detpress.testing.cases import Case
from detpress.testing.trial import BrokenPromiseError, Trial


def documented(trial: Trial) -> None:
    if not (trial.plugin.__doc__ or "").strip():
        raise BrokenPromiseError("The class has no docstring: what it does, in a line, and the paper's citation.")
    silent = [name for name, field in _options(type(trial.config)) if not field.description]
    if silent:
        raise BrokenPromiseError(f"Options without a meaning: {', '.join(silent)}. Give each a Field(description=...).")


def _options(kind: type[Options], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, option in kind.model_fields.items():
        annotation = option.annotation
        if isinstance(annotation, type) and issubclass(annotation, Options):
            yield from _options(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, option


def options_round_trip(trial: Trial) -> None:
    written = trial.config.model_dump(mode="json", exclude_unset=True)
    again = Asked(trial.asked.plugin, written)
    try:
        read = again.recipe(cases.written(cases.TINY)).chain[0].config.model_dump(mode="json", exclude_unset=True)
    except InputError as error:
        raise BrokenPromiseError(f"A recipe with the options that were read is refused: {error}.") from error
    if read != written:
        names = [name for name in written if read[name] != written[name]]
        raise BrokenPromiseError(
            f"Options written into a recipe are read as others: {', '.join(names)}. Let validators change nothing."
        )


def cheap_to_import(trial: Trial) -> None:
    entry = entry_named(trial.asked.plugin, PLUGINS.group)
    code = (
        "import json, time, detpress.contract.registry; from importlib import import_module; "
        f"began = time.process_time(); import_module({entry.module!r}); "
        "print(json.dumps([time.process_time() - began, 'torch' in sys.modules]))"
    )
    done = python(code)
    if done.returncode:
        raise BrokenPromiseError(f"Importing {entry.module} fails: {cut_short(done.stderr.strip())}.")
    seconds, torch_too = json.loads(done.stdout.splitlines()[-1])
    if torch_too or seconds > SLOW:
        what = "imports torch" if torch_too else f"takes {seconds:.1f} s of a processor"
        raise BrokenPromiseError(f"Importing {entry.module} {what}. Import torch and engines inside methods.")


def applies(trial: Trial) -> None:
    tried = trial.attempt
    if isinstance(tried, Exception):
        said = f"{type(tried).__name__}: {cut_short(str(tried))}"
        raise BrokenPromiseError(
            f"{said}. Where options are to blame, give others (--set OPTION=VALUE); a training has "
            f"{cases.IMAGES['train']} images here."
        ) from tried


def result_fits(trial: Trial) -> None:
    _check_result(trial.first, trial.plugin.resizes)


def _check_result(done: Application, resizes: bool) -> None:
    """That the model could be a stage's."""
    if what := other_kind(done.given, done.model, resizes):
        raise BrokenPromiseError(f"`apply` gives a model of another {what}. Keep those of the given one.")
    for name, tensor in done.model.network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BrokenPromiseError(f"{name} has numbers that are not finite. Raise StageError where that happens.")


def changes_the_model(trial: Trial) -> None:
    if not difference(trial.first.given, trial.first.model):
        raise BrokenPromiseError(
            "The model that comes out is the one that went in. Raise StageError where there is nothing to do, or check "
            "with options that do something (--set OPTION=VALUE)."
        )


def leaves_the_given_model(trial: Trial) -> None:
    if trial.first.changed:
        raise BrokenPromiseError(
            f"The given model is changed: {trial.first.changed}. Work on copy.deepcopy(model.network)."
        )


def gives_its_form(trial: Trial) -> None:
    for form in trial.forms:
        case = replace(trial.case, form=form)
        done = trial.first if case == trial.case else trial.apply_to(case)
        expected = trial.plugin.returns or form
        if done.model.form is not expected:
            raise BrokenPromiseError(
                f"A {form} model becomes {done.model.form}, not {expected}. Correct `returns` or `accepts`, or give "
                "the form to with_network."
            )


def plan_agrees(trial: Trial) -> None:
    given, result = load_bundle(cases.written(trial.case) / "bundle"), trial.first.model
    plan = trial.plugin.plan(given, trial.config)
    if plan is None:
        raise SkipTest("has no plan")
    if not isinstance(plan, Plan) or not isinstance(plan.model, Model):
        raise BrokenPromiseError("`plan` gives no Plan with a Model. Return Plan(layers, model), or None.")
    if changed := difference(trial.first.given, given):
        raise BrokenPromiseError(f"`plan` changes the given model: {changed}. Work on a copy.")
    if unknown := set(plan.layers) - set(given.architecture.names):
        raise BrokenPromiseError(
            f"The plan names layers that are not there: {', '.join(sorted(unknown))}. Use model.architecture.names."
        )
    if result.form in (Form.DENSE, Form.MASKED) and plan.model.form is not result.form:
        raise BrokenPromiseError(
            f"The plan's model is {plan.model.form}, the result {result.form}. Plan its form, too."
        )
    if plan.note:
        return  # says itself what is known only afterwards
    if macs(plan.model.architecture) != macs(result.architecture):
        raise BrokenPromiseError(
            f"The plan has {macs(plan.model.architecture):,} MACs, the result {macs(result.architecture):,}. Plan the "
            "same layers, or say in the plan's note what is known only afterwards."
        )
    parameters, left = parameter_count(plan.model.network), parameter_count(result.network)
    if plan.model.form is result.form and parameters != left:
        raise BrokenPromiseError(
            f"The plan has {parameters:,} parameters, the result {left:,}. Plan the same tensors, or say in the plan's "
            "note what is known only afterwards."
        )
    planned, found = ({name: int(mask.sum()) for name, mask in model.masks.items()} for model in (plan.model, result))
    if planned != found:
        names = [name for name in {**planned, **found} if planned.get(name) != found.get(name)]
        raise BrokenPromiseError(
            f"The plan keeps {planned.get(names[0])} weights of {names[0]}, the result {found.get(names[0])}. Mask as "
            "many, or say in the plan's note what is known only afterwards."
        )


def repeats(trial: Trial) -> None:
    trial.must_repeat()
    if isinstance(trial.second, Exception):
        raise SkipTest("it could not be applied twice")
    if found := difference(trial.first.read_back, trial.second.read_back):
        raise BrokenPromiseError(
            f"Applied twice, it gives two models: {found}. Draw from bench.seed and keep nothing between two calls."
        )


def leaves_the_test_images(trial: Trial) -> None:
    if isinstance(trial.first, Application) and isinstance(trial.second, Exception):
        raise BrokenPromiseError(
            f"Where the test images are gone, it fails: {cut_short(str(trial.second))}. Read images by "
            "bench.calibration and bench.training_set alone."
        )


def prints_nothing(trial: Trial) -> None:
    if trial.first.printed:
        raise BrokenPromiseError(f"It prints '{cut_short(trial.first.printed)}' on the standard output. Use bench.log.")


def leaves_the_working_folder(trial: Trial) -> None:
    if left := trial.first.left:
        what = "goes to another working folder" if left == ("",) else f"leaves {', '.join(left)} in the working folder"
        raise BrokenPromiseError(f"It {what}. Write below bench.scratch, or to bench.keep(NAME) what shall stay.")


def ends_its_threads(trial: Trial) -> None:
    if trial.first.threads:
        raise BrokenPromiseError(f"Threads go on after `apply`: {', '.join(trial.first.threads)}. Join them there.")


def on(case: Case) -> Callable[[Trial], None]:
    """That the plugin keeps the contract on another network, or refuses it before it begins."""

    def keeps_the_contract(trial: Trial) -> None:
        try:
            done = trial.apply_to(replace(case, form=trial.case.form))
        except (InputError, StageError) as error:
            raise BrokenPromiseError(f"It fails: {error}. Refuse in `check` or `plan` what it cannot do.") from error
        _check_result(done, trial.plugin.resizes)
        if done.changed:
            raise BrokenPromiseError(f"The given model is changed: {done.changed}. Work on a copy.")

    return keeps_the_contract


def same_in_another_process(trial: Trial) -> None:
    trial.must_repeat()
    bundle = trial.new_folder()
    folder = cases.written(trial.case)
    if apply_elsewhere(trial.asked, folder, trial.new_folder(), bundle) or not bundle.is_dir():
        raise BrokenPromiseError("It fails in another process. Do not rely on what this one has imported or set.")
    if found := difference(trial.first.read_back, load_bundle(bundle)):
        raise BrokenPromiseError(
            f"Another process gives another model: {found}. Sort what comes out of sets and folders before using it."
        )


def resumes(trial: Trial) -> None:
    trial.must_repeat()
    scratch, bundle = trial.new_folder(), trial.new_folder()
    half = max(trial.first.reports // 2, 1)
    code = apply_elsewhere(trial.asked, cases.written(trial.case), scratch, bundle, kill_at=half)
    if code != -signal.SIGKILL:
        raise BrokenPromiseError("It fails in another process. Do not rely on what this one has imported or set.")
    try:
        done = trial.apply_to(trial.case, scratch=scratch)
    except Exception as error:
        raise BrokenPromiseError(
            f"Killed half-way, it cannot go on: {cut_short(str(error))}. Keep work by bench.remember alone."
        ) from error
    if found := difference(trial.first.read_back, done.read_back):
        raise BrokenPromiseError(
            f"Killed half-way, it ends with another model: {found}. Keep work by bench.remember, which keeps it whole."
        )


def same_maps_from_its_bundle(trial: Trial) -> None:
    folder, bundle = trial.new_folder(), trial.new_folder()
    save_bundle(trial.first.model, bundle)
    case = trial.case
    images = cases.images_of(cases.open_data(case, cases.written(case) / "data"), case)
    try:
        found = maps_elsewhere(bundle, images, folder)
    except StageError as error:
        raise BrokenPromiseError(f"{error}. Give layers and encodings that have an entry point.") from error
    expected = maps(trial.first.model, images)
    if found.keys() != expected.keys() or any(not torch.equal(found[name], expected[name]) for name in expected):
        raise BrokenPromiseError(
            "Read from its bundle, the model gives other maps. Hooks and parametrizations are no part of a bundle: "
            "write what they compute into the weights."
        )
