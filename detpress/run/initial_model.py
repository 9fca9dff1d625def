"""The model that a recipe starts from, before the first plugin."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detpress.builtin import find_bundle
from detpress.detector.anchors import kmeans_anchors
from detpress.detector.architecture import Anchors, Architecture, build_architecture, size_text
from detpress.detector.design import find_design
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.new_heads import with_new_heads
from detpress.encodings.bundle import bundle_digest, load_bundle
from detpress.errors import InputError, own_kind
from detpress.files.pictures import picture_size
from detpress.progress import Progress
from detpress.recipe.file import Recipe
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.devkit import Devkit
from detpress.voc.named import open_data


def recipe_classes(recipe: Recipe) -> list[str] | None:
    """The class names that the recipe or its weights give; None where only the annotations tell.

    Raises InputError where both give some and they differ, unless the weights get heads for the recipe's.
    """
    if recipe.model.weights is None or recipe.model.classes == "from_data":
        return recipe.data.classes
    known = list(_weights(recipe, recipe.model.weights).architecture.classes)
    if recipe.data.classes not in (None, known):
        raise InputError(
            f"{recipe.where(('data', 'classes'))}: {', '.join(recipe.data.classes or [])}; "
            f"the weights {recipe.model.weights} know {', '.join(known)}"
        )
    return known


def open_recipe_data(recipe: Recipe, progress: Progress | None = None) -> Devkit:
    """The recipe's data set. Raises InputError as `open_data` and `recipe_classes` do, and where no fold is chosen."""
    split = recipe.data.split
    if split is not None and split.folds is not None and split.fold is None:
        raise InputError(
            f"{recipe.where(('data', 'split'))}.fold: expected which part is the test set, from 0 to "
            f"{split.folds - 1}; only a study takes them all"
        )
    devkit = open_data(recipe.data.root, recipe_classes(recipe), split, progress)
    if split is not None:
        try:
            list(devkit.image_set_names)  # which are there only where it can be split so
        except InputError as error:
            key, _, what = str(error).partition(": ")
            raise InputError(f"{recipe.where(tuple(key.split('.')))}: {what}") from error
    return devkit


def initial_model(recipe: Recipe, devkit: Devkit | None) -> Model:
    """The model before the first plugin.

    devkit: needed for the class names where neither recipe nor weights give them, and for k-means anchors; without
    it the published anchors, or those of the weights, stand in, which have the same shapes.
    Raises InputError where the recipe and its weights describe different networks, and where weights that are to get
    new heads are not dense.
    """
    source = recipe.model
    if source.weights is not None:
        model = _weights(recipe, source.weights)
        _check_agrees(recipe, model.architecture)
        return model if source.classes is None else _for_data(recipe, model, devkit)
    assert source.arch is not None
    assert source.image_size is not None
    count, side = len(find_design(source.arch).anchors), source.image_size
    anchors = _anchors(recipe, devkit, count, (side, side), source.resize or "letterbox")
    classes = _classes(recipe, devkit)
    architecture = build_architecture(
        source.arch, classes, source.image_size, source.width or 1.0, anchors, source.resize or "letterbox"
    )
    return new_model(architecture, recipe.seed)


def model_identity(recipe: Recipe, model: Model) -> dict[str, Any]:
    """All that decides the initial model: the beginning of every stage's key."""
    weights = recipe.model.weights
    identity = {
        "architecture": model.architecture.as_dict(),
        "weights": bundle_digest(find_bundle(weights)) if weights else {"seed": recipe.seed},
    }
    if weights and recipe.model.classes is not None:
        identity["new heads"] = {"seed": recipe.seed, "anchors": recipe.model.anchors}
    return identity


def new_layers(recipe: Recipe, model: Model) -> tuple[str, ...]:
    """The names of the initial model's layers that do not have the weights of the bundle, where it is of one."""
    if recipe.model.classes is None:
        return ()
    return tuple(model.architecture.names[head] for head in model.architecture.heads)


def _weights(recipe: Recipe, name: str) -> Model:
    """The model of the bundle `name`. Raises InputError as `load_bundle` does, at the recipe's line."""
    try:
        return load_bundle(find_bundle(name))
    except InputError as error:
        raise own_kind(error)(f"{recipe.where(('model', 'weights'))}: {error}") from error


def _for_data(recipe: Recipe, model: Model, devkit: Devkit | None) -> Model:
    """The recipe's weights with heads for the data set's classes."""
    where, architecture = recipe.where(("model", "classes")), model.architecture
    if model.form is not Form.DENSE:
        raise InputError(f"{where}: the weights {recipe.model.weights} are {model.form}; expected dense ones")
    classes, count = _classes(recipe, devkit), sum(len(layer.anchors) for layer in architecture.yolo_layers)
    anchors = _anchors(recipe, devkit, count, architecture.input_size, architecture.resize)
    try:
        found = with_new_heads(model, classes, anchors, recipe.seed)
    except InputError as error:
        raise InputError(f"{where}: the heads cannot be made anew: {error}") from error
    new = ", ".join(new_layers(recipe, found))
    known = [name for name in classes if name in architecture.classes]
    kept = ", but for the filters of boxes and objectness" if recipe.model.anchors is None else ""
    kept += f" and those of {', '.join(known)}" if kept and known else ""
    return replace(found, notes=(f"made anew for {', '.join(classes)}: {new}{kept}; all other weights are kept",))


def _classes(recipe: Recipe, devkit: Devkit | None) -> Sequence[str]:
    """Of the recipe, or else of the data set. Raises InputError where neither is there."""
    classes = recipe.data.classes or (devkit.classes if devkit else None)
    if classes is None:
        raise InputError(f"{recipe.where(('data', 'classes'))}: expected, since the data set is not there to tell")
    return classes


def _anchors(
    recipe: Recipe, devkit: Devkit | None, count: int, input_size: tuple[int, int], resize: str
) -> Anchors | None:
    """So many by k-means, where the recipe asks for it and the data set is there; otherwise None."""
    if recipe.model.anchors != "kmeans" or devkit is None:
        return None
    return kmeans_anchors(_box_sizes(devkit, recipe.data.train, input_size, resize), count, recipe.seed)


def _check_agrees(recipe: Recipe, found: Architecture) -> None:
    source = recipe.model
    pairs: dict[str, tuple[Any, Any]] = {
        "arch": (source.arch, found.name),
        "image_size": (source.image_size, found.image_size),
        "resize": (source.resize, found.resize),
    }
    for key, (wanted, has) in pairs.items():
        if wanted not in (None, has):
            has = size_text(has) if key == "image_size" else has
            raise InputError(
                f"{recipe.where(('model', key))}: {wanted}, but the weights {source.weights} have {has}: leave it out"
            )
    if source.anchors is not None and not (source.anchors == "kmeans" and source.classes == "from_data"):
        raise InputError(f"{recipe.where(('model', 'anchors'))}: the weights {source.weights} bring their own")
    if source.width is not None and isinstance(found.image_size, int):
        described = build_architecture(found.name, found.classes, found.image_size, source.width)
        if described.output_channels != found.output_channels:
            raise InputError(
                f"{recipe.where(('model', 'width'))}: the weights {source.weights} are not of width {source.width:g}"
            )


def _box_sizes(devkit: Devkit, split: str, input_size: tuple[int, int], resize: str) -> np.ndarray:
    """Widths and heights of the training boxes in pixels of the network's input: float64 (n, 2).

    input_size: height and width.
    """
    sizes = []
    for annotation in devkit.image_set(split):
        width, height = annotation.size or picture_size(devkit.image_path(annotation))
        scale = np.array([input_size[1] / width, input_size[0] / height])
        if resize == "letterbox":
            scale[:] = scale.min()
        edges = edges_from_voc(annotation.boxes[~annotation.degenerate])
        sizes.append((edges[:, 2:] - edges[:, :2]) * scale)
    return np.concatenate(sizes)
