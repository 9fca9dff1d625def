"""The options of training, shared by every plugin that trains."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from detpress.detector.layer_patterns import matching_layers
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture


class Augmentation(Options):
    """Random changes of the training images; boxes follow."""

    flip_horizontal: float = Field(0.5, ge=0, le=1, description="share of images mirrored left to right")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="share of images mirrored top to bottom")
    hue: float = Field(0.015, ge=0, le=0.5, description="largest rotation of the hue, as a share of the circle")
    saturation: float = Field(0.5, ge=0, lt=1, description="largest relative change of the saturation")
    value: float = Field(0.3, ge=0, lt=1, description="largest relative change of the brightness")
    scale: float = Field(0.3, ge=0, lt=1, description="largest relative change of the size, then cropped or padded")
    translate: float = Field(0.1, ge=0, le=0.5, description="largest shift, as a share of the image's side")
    mosaic: float = Field(
        0.0, ge=0, le=1, description="share of images made of four; none in the last tenth of 10 epochs or more"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of images that another one shines through; none in the last tenth of 10 epochs or more",
    )

    @property
    def mixed(self) -> str | None:
        """The first of the options by which images are made of several."""
        return next((name for name in ("mosaic", "mixup") if getattr(self, name)), None)


class TrainingOptions(Options):
    """How a network is trained, but for how long: AdamW, a schedule, and a moving average of the weights."""

    batch_size: int = Field(16, ge=1, le=4096, description="images a step, on each device")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="the highest, after the warm-up")
    backbone_rate: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate of all layers but the heads, whose outputs are boxes"
    )
    frozen: list[str] = Field(
        [],
        description="patterns of layers, such as `layers.?` or `layers.[1-3]?`, whose weights and BatchNorm statistics "
        "stay as they are",
    )
    weight_decay: float = Field(5e-3, ge=0, le=1, description="AdamW's, on what `decayed` says")
    decayed: Literal["weights", "all"] = Field(
        "weights", description="the weights of convolutions, or all parameters: biases and BatchNorm's scales, too"
    )
    schedule: Literal["cosine", "one_cycle", "constant"] = Field(
        "cosine", description="of the learning rate after the warm-up; one_cycle has a rise and a fall of its own"
    )
    warmup: float = Field(0.15, ge=0, lt=1, description="share of the steps before the highest learning rate")
    ema: float = Field(0.998, ge=0, lt=1, description="decay a step of the moving average that is the result; 0: none")
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        "auto", description="of forward and backward passes; auto: bf16-mixed where the device computes in bfloat16"
    )
    clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    box_loss: Literal["giou", "squared"] = Field("giou", description="GIoU, or YOLOv3's squared error of x, y, w, h")
    objectness_loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="cross-entropy, or focal loss with alpha 0.25 and gamma 2, averaged over all boxes"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="target of the classes that an object is not; 1 less this of the one that it is"
    )
    box_weight: float = Field(2.0, ge=0, description="factor of the box loss")
    class_weight: float = Field(10.0, ge=0, description="factor of the class loss")
    objectness_weights: list[float] = Field(
        [6.0, 15.0, 60.0], min_length=1, description="factor of the objectness loss of each scale, coarse to fine"
    )
    ignore_threshold: float = Field(
        0.5, gt=0, le=1, description="IoU with an object above which a box that is not its own learns no objectness"
    )
    augmentation: Augmentation = Augmentation()
    workers: int = Field(0, ge=0, le=64, description="processes that read images; 0: the training process itself")
    devices: int = Field(1, ge=1, le=1024, description="GPUs, or processes where there is none; several train by DDP")

    @model_validator(mode="after")
    def _one_cycle_has_its_own_rise(self) -> Self:
        if self.schedule == "one_cycle" and self.warmup != type(self).model_fields["warmup"].default:
            raise ValueError(f"warmup: expected none beside `schedule: one_cycle`, got {self.warmup}")
        return self

    def for_epochs(self, epochs: int) -> "TrainingConfig":
        return TrainingConfig(epochs=epochs, **dict(self))


class TrainingConfig(TrainingOptions):
    """How a network is trained: AdamW, a schedule, and an exponential moving average of the weights."""

    epochs: int = Field(ge=1, le=10_000, description="passes over the training set")


class ChoosingConfig(TrainingConfig):
    """How a network is trained where nothing but the training happens to it, and which epoch's weights are kept."""

    choose: Literal["last", "best"] = Field(
        "last", description="the moving average at the end, or after the epoch with the best mAP on validation images"
    )

    @model_validator(mode="after")
    def _one_process_chooses(self) -> Self:
        if self.choose == "best" and self.devices > 1:
            raise ValueError(f"choose: best: expected `devices: 1`, got {self.devices}")
        return self


def chooses_best(config: TrainingConfig) -> bool:
    return isinstance(config, ChoosingConfig) and config.choose == "best"


def check_training(config: Options, architecture: "Architecture", images: ImageCounts, place: str = "") -> None:
    """Holds every training's options in `config`, itself one or not, against network and data set.

    place: what comes before an option's name in `config`. Raises InputError where there is nothing to learn or to
    choose by, where a scale of the network has no weight, and where patterns match no layer, or all.
    """
    if isinstance(config, TrainingOptions):
        images.check_learnt()
        weights, scales = len(config.objectness_weights), len(architecture.heads)
        if weights < scales:
            raise InputError(f"{place}objectness_weights: {weights} for a network of {scales} scales")
        if config.batch_size == 1 and (mixed := config.augmentation.mixed):
            raise InputError(f"{place}augmentation.{mixed}: mixes a batch's images; expected `batch_size` above 1")
        if len(matching_layers(config.frozen, architecture.names, f"{place}frozen")) == len(architecture.names):
            raise InputError(f"{place}frozen: all layers; expected some that are left to learn")
    if isinstance(config, ChoosingConfig) and chooses_best(config):
        images.check_validation(f"{place}choose: best ")
    for name, value in config:
        if isinstance(value, Options):
            check_training(value, architecture, images, f"{place}{name}.")
