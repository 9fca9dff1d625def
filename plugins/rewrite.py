"""Networks rewritten for what shall execute or follow them, for smaller images, or made anew as a smaller one.

chain:
  - rewrite.activation: {to: relu}
  - train.finetune: {epochs: 8}
  - inc.static_int8: {}
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import NoOptions, Options

if TYPE_CHECKING:
    from detpress.detector.model import Model


class ActivationOptions(Options):
    """What becomes of the activations."""

    to: Literal["relu", "relu6", "leaky"] = Field("relu", description="what stands for every other activation")


class RewriteActivation(Plugin):
    """Puts one activation in the place of all others; the weights stay, and have to be trained on.

    ONNX Runtime computes a convolution in integers together with a ReLU behind it, while a LeakyReLU stands between two
    conversions from integers to float and back. Linear layers stay linear, and the logistic gates of
    squeeze-and-excitation stay, since a ReLU is no gate. What the network learnt to do with numbers below 0 is lost: of
    the digits' mAP of 0.9534, 0.8358 is left, and 0.9525 after four epochs of distillation.
    """

    Config = ActivationOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None

    def plan(self, model: "Model", config: ActivationOptions) -> Plan:
        from detpress.detector.rewriting import other_activations

        chosen = other_activations(model.architecture, config.to)
        if not chosen:
            raise InputError(f"to: {config.to}: the network has no other activation that could be replaced")
        return Plan(tuple(model.architecture.names[i] for i in chosen), self._rewritten(model, config))

    def apply(self, model: "Model", config: ActivationOptions, bench: Workbench) -> "Model":
        from detpress.detector.rewriting import other_activations

        bench.log.info("%d activations become %s", len(other_activations(model.architecture, config.to)), config.to)
        return self._rewritten(model, config)

    def _rewritten(self, model: "Model", config: ActivationOptions) -> "Model":
        from detpress.detector.rewriting import with_activations

        return model.with_network(with_activations(model.own_network, config.to))


class ImageSizeOptions(Options):
    """What size images are brought to."""

    to: int = Field(ge=32, le=4096, description="longer side in pixels, a multiple of the coarsest stride")


class RewriteImageSize(Plugin):
    """Takes images of another size; the weights stay, the anchors grow or shrink with the images.

    Multiply-accumulates go with the square of the side: half of it takes a quarter, with as many parameters as before.
    The network still looks for objects of the pixels that it learnt, so it has to be trained on: it may learn from
    itself at the old size, since a distilling teacher sees images at its own.
    """

    Config = ImageSizeOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None
    resizes = True
    version = 2  # what came after the first calibrated on images of the old size

    def plan(self, model: "Model", config: ImageSizeOptions) -> Plan:
        if config.to == max(model.architecture.input_size):
            raise InputError("to: the network takes images of this size already")
        return Plan((), self._resized(model, config))

    def apply(self, model: "Model", config: ImageSizeOptions, bench: Workbench) -> "Model":
        resized = self._resized(model, config)
        height, width = resized.architecture.input_size
        bench.log.info("images of %d x %d pixels", width, height)
        return resized

    def _resized(self, model: "Model", config: ImageSizeOptions) -> "Model":
        from detpress.detector.rewriting import at_side

        try:
            return model.with_network(at_side(model.own_network, config.to))
        except InputError as error:
            raise InputError(f"to: {error}") from error


class ArchitectureOptions(Options):
    """The network that takes the other's place."""

    arch: str = Field(description="an architecture, as `detpress model` lists them")
    width: float = Field(1.0, ge=0.001, le=4, description="multiplies the filters of every layer")


class RewriteArchitecture(Plugin):
    """Puts a new network in the place of the one that came, which may then teach it: `teacher: stage:1`.

    Classes, image size and, where it takes as many, anchors stay; otherwise its anchors are the published ones. Its
    weights are drawn from the seed, as those of a chain that begins with it are: it knows nothing yet.

    chain:
      - train.scratch: {epochs: 100}
      - rewrite.architecture: {arch: yolo-nano, width: 0.25}
      - distill.detector: {teacher: "stage:1", training: {epochs: 100}}
    """

    Config = ArchitectureOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = Form.DENSE

    def plan(self, model: "Model", config: ArchitectureOptions) -> Plan:
        from detpress.detector.kinds import Convolution

        layers = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(
            tuple(name for name, layer in layers if isinstance(layer, Convolution)), self._anew(model, config, seed=0)
        )

    def apply(self, model: "Model", config: ArchitectureOptions, bench: Workbench) -> "Model":
        bench.log.info("%s of width %g, its weights drawn from the seed %d", config.arch, config.width, bench.seed)
        return self._anew(model, config, bench.seed)

    def _anew(self, model: "Model", config: ArchitectureOptions, seed: int) -> "Model":
        from detpress.detector.model import new_model
        from detpress.detector.rewriting import same_task

        try:
            return new_model(same_task(model.architecture, config.arch, config.width), seed)
        except InputError as error:
            raise InputError(f"arch: {error}") from error


class RewriteFloat(Plugin):
    """Decodes packed weights: a float network of the values that codes stand for, which any stage takes.

    What the receiver of a small file does: it travels with shared and coded weights, and is decoded once, where it
    becomes int8 to be fast. Raw maps stay the same to float's rounding; the bundle is as large as a float one again.
    BatchNorms that the codes have taken in stay folded, and a weight that was pruned is a zero like any other: nothing
    masks it any longer.

    chain:
      - deep_compression.share: {bits: 5, epochs: 2}
      - deep_compression.encode
      - rewrite.float
      - inc.static_int8
    """

    Config = NoOptions
    accepts = frozenset({Form.PACKED})
    returns = Form.DENSE

    def plan(self, model: "Model", config: NoOptions) -> Plan:
        packed = (i for i, encoding in model.encodings.items() if encoding.stored_bits < 32)
        return Plan(tuple(model.architecture.names[i] for i in packed), self._decoded(model))

    def apply(self, model: "Model", config: NoOptions, bench: Workbench) -> "Model":
        return self._decoded(model)

    def _decoded(self, model: "Model") -> "Model":
        from detpress.encodings.in_float import without_encodings

        return model.with_network(without_encodings(model.own_network), Form.DENSE)
