"""All that is checked of a plugin: the one list that `detpress plugins check` and pytest walk."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unittest import SkipTest

from detpress.errors import cut_short
from detpress.testing import cases, promises
from detpress.testing.application import Asked
from detpress.testing.trial import BrokenPromiseError, Trial

Effort = Literal["look", "apply", "process"]  # what a check costs: nothing; the plugin applied; another Python, too


@dataclass(frozen=True)
class Check:
    """name: one word or a few, for a report. promise: what it holds the plugin to, in a sentence."""

    name: str
    promise: str
    effort: Effort
    run: Callable[[Trial], None]


CHECKS = (
    Check("documented", "The class has a card, and each option says what it means.", "look", promises.documented),
    Check("options", "Options written into a recipe are read as the same.", "look", promises.options_round_trip),
    Check("import", "Its module is imported in a second, without torch.", "process", promises.cheap_to_import),
    Check("applies", "It can be applied to a small detector with ten classes.", "apply", promises.applies),
    Check("result", "A detector of the same classes and input comes out.", "apply", promises.result_fits),
    Check("changes", "What comes out is another model than what went in.", "apply", promises.changes_the_model),
    Check("given", "The given model is left as it was, bit for bit.", "apply", promises.leaves_the_given_model),
    Check("forms", "Each accepted form becomes the form that is promised.", "apply", promises.gives_its_form),
    Check("plan", "The plan says of forms, layers and masks what comes out.", "apply", promises.plan_agrees),
    Check("repeats", "Applied twice, it gives the same bits.", "apply", promises.repeats),
    Check("test images", "Images that the result is scored on are not read.", "apply", promises.leaves_the_test_images),
    Check("output", "Nothing is printed on the standard output.", "apply", promises.prints_nothing),
    Check("folder", "The working folder is left as it was.", "apply", promises.leaves_the_working_folder),
    Check("threads", "No thread is left behind.", "apply", promises.ends_its_threads),
    Check("one class", "It works on a detector of one class.", "apply", promises.on(cases.ONE_CLASS)),
    Check("twenty classes", "It works on a detector of twenty classes.", "apply", promises.on(cases.TWENTY_CLASSES)),
    Check("yolov3", "It works on YOLOv3, which adds maps.", "apply", promises.on(cases.YOLOV3)),
    Check("pruned", "It works on a network whose layers have lost filters.", "apply", promises.on(cases.PRUNED)),
    Check("depthwise", "It works on a network of depthwise convolutions.", "apply", promises.on(cases.DEPTHWISE)),
    Check("process", "Another process gives the same bits.", "process", promises.same_in_another_process),
    Check("killed", "Killed half-way and started again, it gives the same bits.", "process", promises.resumes),
    Check("bundle", "Its bundle alone gives the same maps.", "process", promises.same_maps_from_its_bundle),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a check. said: what to change, or why there is nothing to check; "" where it passed."""

    name: str
    promise: str
    status: Literal["passed", "failed", "skipped"]
    said: str
    seconds: float


def outcome(check: Check, trial: Trial) -> Outcome:
    began = time.perf_counter()
    status, said = _judged(check, trial)
    return Outcome(check.name, check.promise, status, said, round(time.perf_counter() - began, 1))


def _judged(check: Check, trial: Trial) -> tuple[Literal["passed", "failed", "skipped"], str]:
    try:
        check.run(trial)
    except SkipTest as skipped:
        return "skipped", str(skipped)
    except BrokenPromiseError as broken:
        return "failed", str(broken)
    except Exception as error:  # whatever the plugin raises where it should not
        return "failed", f"{type(error).__name__}: {cut_short(str(error))}. It must not be raised here."
    return "passed", ""


@dataclass(frozen=True)
class PluginCheck:
    """One check of one plugin, to be called in a test; as text, its name."""

    check: Check
    trial: Trial

    def __call__(self) -> None:
        """Raises BrokenPromiseError, or SkipTest, which pytest reports as skipped."""
        self.check.run(self.trial)

    def __str__(self) -> str:
        return self.check.name


def checks_of(plugin: str, options: Mapping[str, Any] | None = None) -> list[PluginCheck]:
    """All checks of the plugin with these options, in the order in which they should be called.

    Raises InputError for an unknown or broken plugin, and for wrong options.
    """
    trial = Trial(Asked(plugin, options or {}))
    return [PluginCheck(check, trial) for check in CHECKS]
