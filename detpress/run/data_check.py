"""What can be seen of a recipe's data set before anything is computed with it.

Annotations take seconds, pictures may take minutes: every one is decoded. Those found whole are remembered in the cache
by size and time of change, so that the second time is quick.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from detpress.detector import images
from detpress.detector.images import read_image
from detpress.errors import InputError
from detpress.files.plain import plain
from detpress.files.seen import SeenFiles
from detpress.progress import Progress
from detpress.recipe.file import Recipe
from detpress.voc.annotation import Annotation
from detpress.voc.coco import MOST_OF_A_CLASS
from detpress.voc.devkit import Devkit, UnlistedClassError, check_boxes
from detpress.voc.results import check_class_name

NAMED = 5  # of a long list


@dataclass(frozen=True)
class Finding:
    """One kind of thing found in a data set.

    text: one line: the first example, and how many there are.
    is_error: whether `run` would end by it; otherwise it is only worth knowing.
    """

    text: str
    is_error: bool


def report(findings: Sequence[Finding], say: Callable[[str], None]) -> None:
    """Says what is worth knowing. Raises InputError with one line a kind of error."""
    for finding in findings:
        if not finding.is_error:
            say(finding.text)
    errors = [finding.text for finding in findings if finding.is_error]
    if errors:
        raise InputError("\n".join(errors))


def annotation_findings(recipe: Recipe, devkit: Devkit) -> list[Finding]:
    """What the image sets and annotations show: what cannot be read, boxes, classes, how many objects."""
    errors: dict[str, list[str]] = defaultdict(list)
    sets = _sets(recipe, devkit)
    for name in sets:
        try:
            for found in devkit.entries(name):
                if isinstance(found, InputError):
                    errors[type(found).__name__].append(str(found))
        except InputError as error:
            alone = len(devkit.image_set_names) == 1
            way = "; `data.split` makes train, val and test of it" if alone else ""
            errors["image set"].append(f"{error}{way}")
    if errors:
        if UnlistedClassError.__name__ in errors and recipe.model.weights is not None and recipe.model.classes is None:
            way = "`model.classes: from_data` makes its heads anew for the data set's classes"
            errors["classes"].append(f"{recipe.where(('model', 'weights'))}: the detector knows other classes; {way}")
        return _errors(errors)
    findings = []
    for name in sets:
        try:
            findings += _boxes(recipe, devkit, name)
            for object_class in {label for annotation in devkit.image_set(name) for label in annotation.names}:
                check_class_name(object_class, name)
        except InputError as error:
            findings.append(Finding(str(error), is_error=True))
    test = devkit.image_set(recipe.data.test)
    if all(annotation.difficult.all() for annotation in test):
        text = f"{devkit.root}: the image set '{recipe.data.test}' holds no object that is not difficult to score by"
        findings.append(Finding(text, is_error=True))
    return findings + _absent_classes(recipe, devkit) + _crowds(recipe, test)


def picture_findings(recipe: Recipe, devkit: Devkit, progress: Progress) -> list[Finding]:
    """What the pictures show: those absent, unreadable, cut short or of another size than annotated, and those that
    image sets share. The annotations must be such that `annotation_findings` has no error.
    """
    sets = _sets(recipe, devkit)
    annotations = {annotation.key: annotation for name in sets for annotation in devkit.image_set(name)}
    errors = broken_pictures(devkit, list(annotations.values()), progress)
    return _errors(errors) if errors else _overlaps(recipe, devkit, sets)


def broken_pictures(devkit: Devkit, annotations: Sequence[Annotation], progress: Progress) -> dict[str, list[str]]:
    """What is wrong with each picture that cannot be read as its annotation says, by kind."""
    known = SeenFiles("pictures-read", images.VERSION, devkit.root)  # each with the size that its annotation says
    errors: dict[str, list[str]] = defaultdict(list)

    def read(annotation: Annotation) -> tuple[str, str] | None:
        """What is wrong: its kind and a line."""
        kind = "absent"
        try:
            path = devkit.image_path(annotation)
            if known.found(path) != (size := list(annotation.size or ())):
                kind = "unreadable"
                height, width = read_image(path).shape[1:]
                kind = "size"
                if annotation.size not in (None, (width, height)):
                    read_image(path, annotation.size)  # turned by its EXIF data, or refused
                known.add(path, size)
        except InputError as error:
            return kind, str(error)
        return None

    try:
        with ThreadPool(2) as pool:  # does not wait, when stopped, for a file that a dead network holds back
            for done, wrong in enumerate(pool.imap(read, annotations), 1):
                if wrong:
                    errors[wrong[0]].append(wrong[1])
                progress("pictures read", done, len(annotations))
    finally:
        known.save()
    return errors


def shared_images(devkit: Devkit, one: str, other: str) -> list[Annotation]:
    """The images of the image set `other` that are in `one`, too, under the same name or as the same file's content."""
    known = {annotation.key for annotation in devkit.image_set(one)}
    paths = {name: [devkit.image_path(annotation) for annotation in devkit.image_set(name)] for name in (one, other)}
    sizes = {path: path.stat().st_size for of_set in paths.values() for path in of_set}
    suspects = {sizes[path] for path in paths[one]} & {sizes[path] for path in paths[other]}  # only these are read
    digests = {path: _digest(path) for path, size in sizes.items() if size in suspects}
    contents = {digests[path] for path in paths[one] if path in digests}
    return [
        annotation
        for annotation, path in zip(devkit.image_set(other), paths[other], strict=True)
        if annotation.key in known or digests.get(path) in contents
    ]


def _sets(recipe: Recipe, devkit: Devkit) -> list[str]:
    """The image sets that are read. Nothing is learnt where the chain is empty, and `val` need not be there."""
    data = recipe.data
    val = [data.val] if data.val in devkit.image_set_names else []
    return list(dict.fromkeys([*([data.train, *val] if recipe.chain else []), data.test]))


def _errors(by_kind: dict[str, list[str]]) -> list[Finding]:
    """A finding a kind. What sets share is counted once."""
    found = [list(dict.fromkeys(texts)) for texts in by_kind.values()]
    return [Finding(texts[0] + (f" ({len(texts)} such in all)" if texts[1:] else ""), True) for texts in found]


def _boxes(recipe: Recipe, devkit: Devkit, name: str) -> list[Finding]:
    """Raises InputError where such boxes are refused."""
    bad = check_boxes(devkit.image_set(name), recipe.data.bad_boxes)
    if not bad:
        return []
    if recipe.chain and name == recipe.data.train:
        return [Finding(f"{len(bad)} training boxes left out: no area, or off the image; stage.log names them", False)]
    annotation, index = bad[0]
    example = f"such as object {index + 1} of {annotation.path}"
    text = f"{len(bad)} boxes of '{name}' have no area or lie off the image, {example}: they count as objects to find"
    return [Finding(text, is_error=False)]


def _absent_classes(recipe: Recipe, devkit: Devkit) -> list[Finding]:
    if not recipe.chain:
        return []
    learnt = {
        label
        for annotation in devkit.image_set(recipe.data.train)
        for label, usable in zip(annotation.names, annotation.learnt, strict=True)
        if usable
    }
    absent = [name for name in devkit.classes if name not in learnt]
    if not absent:
        return []
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    text = f"no object of {', '.join(absent[:NAMED])}{more} in '{recipe.data.train}': nothing can be learnt of it"
    return [Finding(text, is_error=False)]


def _crowds(recipe: Recipe, test: Sequence[Annotation]) -> list[Finding]:
    """Test images with more objects than detections are kept."""
    measure = recipe.measure
    kept = measure.max_detections
    crowded = [annotation for annotation in test if len(annotation.names) > kept]
    findings = []
    if crowded:
        most = max(len(annotation.names) for annotation in crowded)
        text = (
            f"{len(crowded)} images of '{recipe.data.test}' hold more objects, up to {most}, "
            f"than the {kept} detections that are kept: --set measure.max_detections={most} or more finds them"
        )
        findings.append(Finding(text, is_error=False))
    most = max((count for annotation in test for count in Counter(annotation.names).values()), default=0)
    if measure.protocol == "coco" and most > MOST_OF_A_CLASS:
        text = (
            f"images of '{recipe.data.test}' hold up to {most} objects of a class, of which coco counts "
            f"{MOST_OF_A_CLASS}: voc07 and voc10 count all"
        )
        findings.append(Finding(text, is_error=False))
    return findings


def _overlaps(recipe: Recipe, devkit: Devkit, sets: Sequence[str]) -> list[Finding]:
    data = recipe.data
    pairs = [
        (data.train, data.val, "of the validation set are trained on"),
        (data.train, data.test, "of the test set are trained on"),
        (data.val, data.test, "of the test set are in the validation set"),
    ]
    findings = []
    for one, other, what in pairs:
        shared = shared_images(devkit, one, other) if recipe.chain and {one, other} <= set(sets) else []
        if shared:
            findings.append(Finding(f"{len(shared)} images {what}, too, such as {shared[0].image}", is_error=False))
    return findings


def _digest(path: Path) -> str:
    with plain(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
