"""The folder of a run, exchanged for that of another run without ever being a mixture of both.

    results.json             there only beside the stages that it names
    0-model/, 1-nni.l1norm/  bundle/, results/comp4_det_*, training/, validation/, files/, stage.log of each
    pictures/                the truth beside each stage's boxes
    .written.json            what of it detpress wrote, so that nothing else is ever removed

What is new is copied under another name first. Then results.json goes, the old copies go, the new ones are renamed,
and results.json comes back: after a kill in between there is none, and the same command writes it.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from detpress.errors import InputError
from detpress.files.folders import alone_in, copy_folder, write_atomically
from detpress.run.stage import Stage

PARTS = ("bundle", "results", "training", "validation", "files", "stage.log")
UNFINISHED = ".unfinished-"
WRITTEN = ".written.json"


def check_run_folder(folder: Path) -> None:
    """Raises InputError where `folder` has a recipe.yaml that is of no run, and would be replaced."""
    path = folder / "recipe.yaml"
    if path.exists() and not any((folder / name).exists() for name in (WRITTEN, "results.json")):
        raise InputError(f"{path}: is there already, and no run has written it; expected another --out")


def has_whole_run(folder: Path, stages: Sequence[Stage]) -> bool:
    """Whether the run in `folder` came to its end, and began with `stages`."""
    with suppress(OSError, ValueError, TypeError, KeyError):  # no run, or none of this version
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        keys = [entry["key"] for entry in found["stages"]]
        return found["failed"] is None and keys[: len(stages)] == [stage.key for stage in stages]
    return False


def copy_stage(stage: Stage, target: Path) -> None:
    """A copy that `detpress store gc` does not touch, of all `PARTS` that there are.

    The copy is made beside `target` first. What else lies in `target` stays.
    """
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(target.parent):
        _copy(stage, unfinished)
        _remove_parts(target)
        _put_parts(unfinished, target)


def exchange_stages(stages: dict[str, Stage], folder: Path) -> None:
    """Makes copies of `stages`, by their names, the stages in `folder`; results.json is removed, and to be written."""
    for rest in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(rest)
    for name, stage in stages.items():
        _copy(stage, folder / f"{UNFINISHED}{name}")
    written = written_before(folder)
    note_written(folder, written | stages.keys())
    (folder / "results.json").unlink(missing_ok=True)
    for name in sorted(written):
        path = folder / name
        if path.is_dir():
            _remove_parts(path)
        else:
            path.unlink(missing_ok=True)
    for name in stages:
        _remove_parts(folder / name)
        _put_parts(folder / f"{UNFINISHED}{name}", folder / name)
    note_written(folder, stages.keys())


def add_pictures(drawn: dict[str, Path], folder: Path) -> None:
    """Moves the pictures, by their names below pictures/, into the run's folder."""
    note_written(folder, written_before(folder) | {f"pictures/{name}" for name in drawn})
    for name, path in drawn.items():
        target = folder / "pictures" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def written_before(folder: Path) -> set[str]:
    """Names, below `folder`, of the stages and pictures that detpress wrote there."""
    names: set[str] = set()
    with suppress(OSError, ValueError, TypeError):  # the run of an earlier version
        names |= set(json.loads((folder / WRITTEN).read_text(encoding="utf-8")))
    with suppress(OSError, ValueError, TypeError, KeyError):  # no run, or one that was killed
        entries = json.loads((folder / "results.json").read_text(encoding="utf-8"))["stages"]
        names |= {f"{entry['index']}-{entry['plugin']}" for entry in entries}
    return {name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute()}


def note_written(folder: Path, names: Iterable[str]) -> None:
    """Notes what in `folder` detpress wrote, or is about to write."""
    write_atomically(folder / WRITTEN, json.dumps(sorted(names), ensure_ascii=False) + "\n")


def _copy(stage: Stage, unfinished: Path) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    copy_folder(stage.bundle, unfinished / "bundle")
    copy_folder(stage.detections, unfinished / "results")
    for name in ("training", "validation", "files"):
        if (stage.folder / name).is_dir():
            copy_folder(stage.folder / name, unfinished / name)
    with suppress(FileNotFoundError):  # a log that was lost is no reason to train again
        shutil.copyfile(stage.folder / "stage.log", unfinished / "stage.log")


def _remove_parts(target: Path) -> None:
    """Removes what `copy_stage` wrote, and the folder where nothing else is in it."""
    if not target.is_dir():
        return
    for part in (target / name for name in PARTS):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
    if not any(target.iterdir()):
        target.rmdir()


def _put_parts(unfinished: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for part in unfinished.iterdir():
        part.rename(target / part.name)
    unfinished.rmdir()
