"""A trained detector for other classes: its heads are made anew, everything else keeps its weights.

A head, the convolution before a yolo layer, has 5 + classes filters for each of its anchors: x, y, width, height,
objectness, and one a class.

    20 classes, 2 anchors     x y w h o c1 c2 ... c20  x y w h o c1 c2 ... c20      50 filters
    3 classes                 x y w h o n1 c7 n2       x y w h o n1 c7 n2           16 filters

The n are new; a class of the same name, here the seventh, keeps its filters. All are new where the anchors are others:
what a filter knows of a box, it knows of its anchor.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from detpress.detector.architecture import Anchors, Architecture
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, new_model
from detpress.detector.network import filled_network

BOX_AND_OBJECTNESS = 5  # filters of each anchor


def with_new_heads(model: Model, classes: Sequence[str], anchors: Anchors | None, seed: int) -> Model:
    """The dense `model` with heads for `classes`; what is new in them is drawn from `seed` as in a new network.

    anchors: pixels of the input, from the smallest to the largest, as many as the network has; its own by default.
    Raises InputError where other layers take what a head gives, which has other channels now.
    """
    given = model.architecture
    architecture = _architecture(given, classes, anchors)
    tensors = new_model(architecture, seed).network.state_dict()
    counts = {f"layers.{i}": len(yolo.anchors) for i, yolo in zip(given.heads, given.yolo_layers, strict=True)}
    known = [name for name in classes if name in given.classes]
    into, out_of = _rows(classes, known), _rows(given.classes, known)
    for name, tensor in model.network.state_dict().items():
        count = counts.get(".".join(name.split(".")[:2]))
        if count is None:
            tensors[name] = tensor
        elif anchors is None and tensor.ndim:
            _by_anchor(tensors[name], count)[:, into] = _by_anchor(tensor, count)[:, out_of]
    encodings = {i: encoding for i, encoding in model.encodings.items() if i not in given.heads}
    record = {"plugin": "model", "config": {"classes": list(classes), "anchors": "kept" if anchors is None else "new"}}
    return Model(filled_network(architecture, encodings, tensors), history=(*model.history, record))


def _architecture(given: Architecture, classes: Sequence[str], anchors: Anchors | None) -> Architecture:
    layers = list(given.layers)
    left = list(anchors or ())
    for place in sorted(range(len(given.heads)), key=lambda place: given.strides[place]):  # small boxes on fine maps
        head, yolo = given.heads[place], given.yolo_layers[place]
        convolution = layers[head]
        assert isinstance(convolution, Convolution)
        count = len(yolo.anchors)
        layers[head] = replace(convolution, filters=count * (BOX_AND_OBJECTNESS + len(classes)))
        if anchors is not None:
            layers[head + 1] = replace(yolo, anchors=tuple(left[:count]))
            left = left[count:]
    return replace(given, layers=tuple(layers), classes=tuple(classes))


def _rows(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """Places, among the filters of an anchor, of box and objectness and of the classes `known`."""
    return [*range(BOX_AND_OBJECTNESS), *(BOX_AND_OBJECTNESS + classes.index(name) for name in known)]


def _by_anchor(tensor: Tensor, count: int) -> Tensor:
    """A head's tensor (count * (5 + classes), ...) as (count, 5 + classes, ...)."""
    return tensor.view(count, -1, *tensor.shape[1:])
