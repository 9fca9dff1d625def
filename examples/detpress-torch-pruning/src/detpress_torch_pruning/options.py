"""What may be chosen."""

from typing import Literal, Self

from detpress.api import Options, TrainingOptions
from pydantic import Field, model_validator


class PruningOptions(Options):
    """How much goes. Either `sparsity` or `parameters` is given."""

    sparsity: float | None = Field(None, gt=0, lt=1, description="share of the filters that are taken out")
    parameters: float | None = Field(
        None, gt=0, lt=1, description="share of the parameters that are taken out; decides the sparsity"
    )
    ranking: Literal["uniform", "global"] = Field(
        "uniform", description="the same share of every group of filters that go together, or the least of all groups"
    )
    at_most: float = Field(0.9, gt=0, lt=1, description="largest share of its filters that a layer may lose")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.sparsity is None) == (self.parameters is None):
            raise ValueError("expected either `sparsity` or `parameters`")
        return self


class GradientOptions(PruningOptions):
    """Of importances that follow from the loss."""

    images: int = Field(64, ge=1, description="training images that the loss is differentiated on")


class GrowingOptions(PruningOptions):
    """Of filters that are drawn towards zero before the smallest go."""

    epochs: int = Field(4, ge=1, le=10_000, description="passes over the training set, before the filters go")
    strength: float = Field(1e-4, ge=0, description="of the regularisation at the beginning: decay a unit of gradient")
    growth: float = Field(1e-4, gt=0, description="added after each epoch for the least important filter of a group")
    training: TrainingOptions = TrainingOptions()
