"""Training as steps of a chain, on the detector's own loss (`detpress.training.loss`) and what is named beside it."""

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import ChoosingConfig
from detpress.training.image_counts import ImageCounts
from detpress.training.named_objective import NamedObjective

if TYPE_CHECKING:
    from detpress.detector.model import Model


class TrainOptions(ChoosingConfig):
    """How it is trained, and what is learnt."""

    objectives: list[NamedObjective] = Field(
        [], description="what is learnt beside the detection loss, or instead of it: `[{NAME: OPTIONS}]`"
    )


class Training(Plugin):
    """Trains."""

    Config = TrainOptions
    engine = "pytorch-lightning"

    def plan(self, model: "Model", config: TrainOptions) -> Plan:
        return Plan((), model)

    def check(self, model: "Model", config: TrainOptions, images: ImageCounts) -> None:
        from detpress.training.objective import check_devices

        super().check(model, config, images)
        for named in config.objectives:
            objective = named.made()
            try:
                objective.check(model)
            except InputError as error:
                raise InputError(f"objectives: {named.name}: {error}") from error
            check_devices(config.devices, [objective])

    def fit(self, model: "Model", config: TrainOptions, bench: Workbench) -> "Model":
        return bench.fit(model, config, tuple(named.made() for named in config.objectives))


class ScratchOptions(TrainOptions):
    """How it is trained, from which weights, and what is learnt."""

    zero_gamma: bool = Field(
        False, description="whether the last BatchNorm of each residual block starts with the scale 0, not 1"
    )
    objectness_prior: float | None = Field(
        None, gt=0, lt=1, description="the objectness that all boxes start with, such as 0.01; otherwise about a half"
    )

    @field_validator("frozen")
    @classmethod
    def _nothing_is_worth_freezing(cls, patterns: list[str]) -> list[str]:
        if patterns:
            raise ValueError("expected none: all weights are drawn anew, so frozen ones would stay random")
        return patterns


class Scratch(Training):
    """Trains from new initial weights, drawn from the seed: what the model knew before is gone, its layers stay.

    With a compressed network before it, this is the comparison with one of the same shape trained from nothing.
    """

    Config = ScratchOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        from detpress.detector.initial import ending_blocks, heads_have_biases

        super().check(model, config, images)
        if config.zero_gamma and not ending_blocks(model.architecture):
            raise InputError("zero_gamma: the network has no residual block that ends in a BatchNorm")
        if config.objectness_prior is not None and not heads_have_biases(model.architecture):
            raise InputError("objectness_prior: the network has a head whose convolution has no bias")

    def plan(self, model: "Model", config: TrainOptions) -> Plan:
        return Plan((), model, "draws all weights anew: what those of the bundle know is lost" if model.history else "")

    def apply(self, model: "Model", config: ScratchOptions, bench: Workbench) -> "Model":
        from detpress.detector.initial import set_objectness_prior, zero_residual_scales
        from detpress.detector.model import new_model

        new = new_model(model.architecture, bench.seed)
        if config.zero_gamma:
            zero_residual_scales(new.network, new.architecture)
        if config.objectness_prior is not None:
            set_objectness_prior(new.network, new.architecture, config.objectness_prior)
        return self.fit(new, config, bench)


class Finetune(Training):
    """Trains on from the weights that the model has; zeros held by masks stay zero."""

    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None

    def apply(self, model: "Model", config: TrainOptions, bench: Workbench) -> "Model":
        return self.fit(model, config, bench)


class StatisticsOptions(Options):
    """What is seen."""

    images: int = Field(256, ge=2, description="training images that means and variances are taken from")
    batch_size: int = Field(16, ge=2, description="images, at most, that are normalised together")


class BatchNorm(Plugin):
    """Takes the means and variances of every BatchNorm anew from training images; weights stay as they are.

    After weights or filters were taken out, the means that a network remembers are those of activations that it gives
    no more. The statistics here are the mean over batches of each batch's own, each BatchNorm fed by those before it as
    in training, but without augmentation. Li, Wu, Su, Wang, "EagleEye: Fast Sub-net Evaluation for Efficient Neural
    Network Pruning", arXiv:2007.02491, 2020, judge pruned networks after it (adaptive batch normalisation: a moving
    average over 100 batches there, the plain mean over `images` here, as PyTorch's `update_bn` has it).
    """

    Config = StatisticsOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None

    def plan(self, model: "Model", config: StatisticsOptions) -> Plan:
        from detpress.training.statistics import batch_norms

        if not batch_norms(model.network):
            raise InputError("the network has no BatchNorm, whose statistics could be taken anew")
        return Plan((), model)

    def check(self, model: "Model", config: StatisticsOptions, images: ImageCounts) -> None:
        images.check_asked(config, "images")

    def apply(self, model: "Model", config: StatisticsOptions, bench: Workbench) -> "Model":
        from detpress.training.statistics import with_statistics_of

        images = bench.calibration(config.images, config.is_default("images"))
        network = with_statistics_of(model.network, images, config.batch_size, bench.device)
        bench.log.info("statistics of %d images", len(images))
        return model.with_network(network)
