"""NNI's distillers: a compressed network learns from the one that it was made of, or from any other teacher.

chain:
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup: {}
  - nni.dynamic_layerwise: {teacher: "builtin:digits", training: {epochs: 8}}
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import BundleName, Options
from detpress.training.config import TrainingConfig

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model
    from detpress.measure.size import LayerSize


class Distillation(Options):
    """Who teaches what, and the training."""

    teacher: BundleName = Field(
        description="the teacher's bundle: a shipped one such as `builtin:digits`, or its folder"
    )
    loss: Literal["mse", "kl"] = Field(
        "mse",
        description="of two linked maps: mean squared error, or KL divergence over their channels (softened by 2)",
    )
    weight: float = Field(1.0, gt=0, description="factor of each link's loss")
    detection_weight: float = Field(1.0, ge=0, description="factor of the detector's own loss; 0: the teacher alone")
    training: TrainingConfig


class DynamicDistillation(Distillation):
    """Links of which each step takes the nearest."""

    links: dict[str, list[str]] = Field(
        {},
        description="student's layer -> teacher's layers, by name: {layers.81: [layers.81]}; by default each head's "
        "raw map to that of the teacher's head",
    )


class AdaptiveDistillation(Distillation):
    """Links between layers of any widths."""

    links: dict[str, str] = Field(
        {},
        description="student's layer -> teacher's layer, by name: {layers.80: layers.80}; by default the convolution "
        "before each head to the one before the teacher's",
    )


class Distiller(Plugin):
    """Trains with a teacher beside the detector's own loss."""

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    engine = "nni"
    version = 2
    distiller: ClassVar[Any]
    before_head: ClassVar[int]  # how far before a head the default links are
    equal_channels: ClassVar[bool]

    def plan(self, model: "Model", config: Any) -> Plan:
        from detpress.builtin import find_bundle
        from detpress.encodings.bundle import load_bundle

        links = self.links(model.architecture, load_bundle(find_bundle(config.teacher)).architecture, config)
        return Plan(tuple(model.architecture.names[i] for i in links), model)

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        from detpress.adapters.nni_distill import distill

        teacher = bench.load(config.teacher)
        links = self.links(model.architecture, teacher.architecture, config)
        for i, layers in links.items():
            bench.log.info("layers.%d learns from the teacher's %s", i, ", ".join(f"layers.{k}" for k in layers))
        network = distill(
            self.distiller,
            model,
            teacher.network,
            links,
            config.loss,
            config.weight,
            config.detection_weight,
            config.training,
            bench,
        )
        return model.with_network(network)

    def links(self, student: "Architecture", teacher: "Architecture", config: Any) -> dict[int, list[int]]:
        """Student's layer number -> teacher's layer numbers.

        Raises InputError where a layer does not exist or gives no map of its own, and where maps do not fit; raw maps
        do where classes, their order and anchors are the same.
        """
        from detpress.errors import InputError

        if config.links:
            links = {
                _layer(student, name, "links"): [
                    _layer(teacher, other, f"links.{name}") for other in ([to] if isinstance(to, str) else to)
                ]
                for name, to in config.links.items()
            }
        elif len(student.heads) == len(teacher.heads):
            links = {
                i - self.before_head: [k - self.before_head] for i, k in zip(student.heads, teacher.heads, strict=True)
            }
        else:
            raise InputError(
                f"links: expected, as the student has {len(student.heads)} heads and the teacher {len(teacher.heads)}"
            )
        _check_heads(student, teacher, links)
        _check_maps(student, teacher, links, self.equal_channels)
        return links


class DynamicLayerwise(Distiller):
    """Draws each linked map of the student to the nearest of the teacher's maps that it is linked to.

    NNI's DynamicLayerwiseDistiller, for which NNI names no paper: the loss of a layer is the smallest of those to its
    teacher's layers, chosen anew at every step, as in Xia, Zhong, Chen, "Structured Pruning Learns Compact and Accurate
    Models", arXiv:2204.00408, 2022 (there behind a linear layer). Maps must be of equal shape: raw maps always are, and
    by default it is these. Of its other layers a pruned student has fewer channels than its teacher;
    nni.adaptive1d_layerwise takes those.
    """

    Config = DynamicDistillation
    distiller = "dynamic"
    before_head = 0
    equal_channels = True


class Adaptive1dLayerwise(Distiller):
    """Draws each linked map of the student, its channels mapped to the teacher's by a learned layer, to the teacher's.

    NNI's Adaptive1dLayerwiseDistiller, for which NNI names no paper: the hints of Romero et al., "FitNets: Hints for
    Thin Deep Nets", arXiv:1412.6550, 2015, in one training together with the detector's loss instead of before it. The
    layer that maps channels is linear, 1x1, and thrown away afterwards; where channels are equal there is none. NNI
    aligns the last dimension of what it sees, which of a convolution's output is the width of the map, so it is shown
    the maps with their channels last.
    """

    Config = AdaptiveDistillation
    distiller = "adaptive1d"
    before_head = 1
    equal_channels = False


def _layer(architecture: "Architecture", name: str, option: str) -> int:
    """The number of the layer `name`. Raises InputError, naming the option, for one that computes no map."""
    from detpress.detector.architecture import Convolution, MaxPool, Upsample
    from detpress.errors import InputError, nearest

    known = {
        architecture.names[i]: i
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Convolution | MaxPool | Upsample)
    }
    if name not in known:
        raise InputError(f"{option}: '{name}' is no convolution, pooling or upsampling layer; {nearest(name, known)}")
    return known[name]


def _check_heads(student: "Architecture", teacher: "Architecture", links: dict[int, list[int]]) -> None:
    """Raw maps are compared channel by channel, so a channel must mean the same box and class in both."""
    from detpress.errors import InputError

    own = dict(zip(student.heads, student.yolo_layers, strict=True))
    others = dict(zip(teacher.heads, teacher.yolo_layers, strict=True))
    for i, k in [(i, k) for i, layers in links.items() for k in layers if i in own and k in others]:
        pairs = {
            "classes": (student.classes, teacher.classes),
            "anchors": tuple([f"{w:g}x{h:g}" for w, h in layer.anchors] for layer in (own[i], others[k])),
        }
        for what, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise InputError(
                    f"links: the raw maps of layers.{i} have the {what} {', '.join(mine)}, those of the teacher's "
                    f"layers.{k} {', '.join(theirs)}; expected the same in the same order, or links before the heads "
                    f"(nni.adaptive1d_layerwise)"
                )


def _check_maps(
    student: "Architecture", teacher: "Architecture", links: dict[int, list[int]], equal_channels: bool
) -> None:
    from detpress.detector.architecture import size_text
    from detpress.errors import InputError
    from detpress.measure.size import layer_table

    own, others = layer_table(student), layer_table(teacher, student.image_size)

    def pixels(row: "LayerSize") -> str:
        return f"{row.side} x {row.side}" if isinstance(row.side, int) else size_text(row.side)

    for i, layers in links.items():
        for k in layers:
            if own[i].side != others[k].side:
                raise InputError(
                    f"links: layers.{i} gives maps of {pixels(own[i])}, the teacher's layers.{k} of "
                    f"{pixels(others[k])}; expected the same size"
                )
            if equal_channels and own[i].channels != others[k].channels:
                raise InputError(
                    f"links: layers.{i} gives {own[i].channels} channels, the teacher's layers.{k} "
                    f"{others[k].channels}; expected as many (nni.adaptive1d_layerwise takes other widths)"
                )
