"""What `nni.nas` searches: its options, and what each of its spaces lets choose."""

from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from detpress.plugins.search_trials import SearchOptions
from detpress.training.config import TrainingConfig

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.backbone import Backbone

TRIALS = ("random", "grid", "evolution", "tpe", "policy_rl")
ONE_SHOT = ("darts", "gumbel_darts", "enas", "random_one_shot", "proxyless")
BlockKind = Literal["residual", "depthwise", "fire", "pep"]


class NASOptions(SearchOptions):
    """The space, how it is searched, and how the winner is trained."""

    space: Literal["yolov3", "mobilenetv3"] = Field("yolov3", description="the backbones; see the card")
    strategy: Literal[
        "random",
        "grid",
        "evolution",
        "tpe",
        "policy_rl",
        "darts",
        "gumbel_darts",
        "enas",
        "random_one_shot",
        "proxyless",
    ] = Field("evolution", description="see the card")
    widths: list[float] = Field([0.125], min_length=1, description="factors on the published filters; one a stage")
    blocks: list[int] = Field([1, 2], min_length=1, description="numbers of blocks, one a stage")
    kinds: list[BlockKind] = Field(
        ["residual", "depthwise", "fire"], min_length=1, description="yolov3: kinds of a block"
    )
    kernels: list[int] = Field([3, 5], min_length=1, description="yolov3: kernels of a block in pixels, odd numbers")
    ratios: list[float] = Field([0.5], min_length=1, description="inner filters of a block as shares of its outer ones")
    trials: int = Field(12, ge=1, le=10_000, description="networks that are trained, or drawn from a trained supernet")
    population: int = Field(
        6, ge=2, description="evolution: networks kept; tpe: drawn at random first; policy_rl: made between two updates"
    )
    architecture_rate: float = Field(3e-3, gt=0, description="darts, gumbel_darts, proxyless: choices' learning rate")
    trial: TrainingConfig = Field(TrainingConfig(epochs=1), description="training of a trial, or of the supernet")
    final: TrainingConfig = Field(TrainingConfig(epochs=10), description="training of the winner, from nothing")

    @model_validator(mode="after")
    def _starts_from_nothing(self) -> Self:
        for name, training in (("trial", self.trial), ("final", self.final)):
            if training.frozen or training.backbone_rate != 1:
                raise ValueError(f"{name}: expected neither `frozen` nor `backbone_rate`: networks start from nothing")
        return self

    @property
    def evolves(self) -> bool:
        return self.strategy == "evolution"

    @model_validator(mode="after")
    def _makes_a_space(self) -> Self:
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"expected odd `kernels`, got {self.kernels}")
        if min(self.widths) <= 0 or min(self.ratios) <= 0 or min(self.blocks) < 0:
            raise ValueError("expected `widths` and `ratios` above 0, and `blocks` of 0 or more")
        if self.space == "mobilenetv3":
            if fixed := {"kinds", "kernels"} & self.model_fields_set:
                raise ValueError(f"expected no {' and no '.join(sorted(fixed))}: mobilenetv3 has its own")
            if min(self.blocks) < 1:
                raise ValueError(f"expected `blocks` of 1 or more in mobilenetv3, got {self.blocks}")
            if self.strategy in ONE_SHOT:
                raise ValueError(f"expected one of {', '.join(TRIALS)} for mobilenetv3, whose widths are chosen")
        if self.strategy in ONE_SHOT:
            if self.max_latency_ms:
                raise ValueError(f"{self.strategy} trains no network that could be timed; expected {', '.join(TRIALS)}")
            if len(self.widths) > 1:
                raise ValueError(f"expected one of `widths` for {self.strategy}: its candidates share their filters")
            if self.strategy != "random_one_shot" and (self.max_parameters or self.max_macs):
                raise ValueError(
                    f"{self.strategy} keeps no budget; expected random_one_shot or one of {', '.join(TRIALS)}"
                )
        return self


class Space(Protocol):
    """Label -> what may be chosen, and the detector that a choice for every label makes."""

    choices: dict[str, list[Any]]

    def architecture_of(self, choices: dict[str, Any], given: "Architecture") -> "Architecture":
        """Classes, input size and anchors are those of `given`."""


def space_of(config: NASOptions) -> Space:
    if config.space == "yolov3":
        return YoloSpace(config)
    from detpress.adapters.nni_hub import MobileNetV3

    return MobileNetV3(config.widths, (min(config.blocks), max(config.blocks)), config.ratios)


class YoloSpace:
    """Of each of five stages a width and a number of blocks, of each block its kind, kernel and bottleneck."""

    def __init__(self, config: NASOptions) -> None:
        choices: dict[str, list[Any]] = {}
        for stage in range(1, 6):
            choices[f"stage{stage}.width"] = config.widths
            choices[f"stage{stage}.blocks"] = config.blocks
            for block in range(max(config.blocks)):
                choices[f"stage{stage}.block{block}.kind"] = list(config.kinds)
                choices[f"stage{stage}.block{block}.kernel"] = config.kernels
                choices[f"stage{stage}.block{block}.ratio"] = config.ratios
        self.choices = {label: list(dict.fromkeys(values)) for label, values in choices.items()}

    def architecture_of(self, choices: dict[str, Any], given: "Architecture") -> "Architecture":
        from detpress.detector.backbone import with_backbone

        return with_backbone(backbone_of(choices), given)


def backbone_of(choices: dict[str, Any]) -> "Backbone":
    """The backbone that a choice for every label makes; blocks beyond a stage's number are left out."""
    from detpress.detector.backbone import Backbone, Block

    stages = [f"stage{stage}" for stage in range(1, 6)]
    return Backbone(
        tuple(choices[f"{stage}.width"] for stage in stages),
        tuple(
            tuple(
                Block(*(choices[f"{stage}.block{block}.{what}"] for what in ("kind", "kernel", "ratio")))
                for block in range(choices[f"{stage}.blocks"])
            )
            for stage in stages
        ),
    )
