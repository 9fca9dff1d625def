"""What a recipe says of how its image sets are made of one."""

from pydantic import Field, model_validator

from detpress.options import Options


class Split(Options):
    """Image sets `train`, `val` and `test` made of one."""

    val: float = Field(0.0, ge=0, lt=1, description="share of the images that go to the image set `val`")
    test: float = Field(0.0, ge=0, lt=1, description="share of the images that go to the image set `test`")
    folds: int | None = Field(
        None, ge=2, description="instead of `test`: all images are dealt into so many parts, and each is `test` once"
    )
    fold: int | None = Field(None, ge=0, description="which part is `test`, from 0; a study takes them all by default")
    seed: int = Field(0, ge=0, lt=2**32, description="decides which; the recipe's own seed does not")
    of: str | None = Field(
        None, description="the image set that is split; `train`, or the only one, by default, and all with `folds`"
    )

    @model_validator(mode="after")
    def _leaves_some(self) -> "Split":
        if self.folds is None:
            if self.fold is not None:
                raise ValueError("fold: expected with folds, the number of parts")
            if not 0 < self.val + self.test < 1:
                raise ValueError("expected val and test such that their sum is above 0 and below 1")
            return self
        if self.test:
            raise ValueError("expected test or folds, not both: each fold is the image set test once")
        if self.val + 1 / self.folds >= 1:
            raise ValueError(f"expected val below 1 - 1/{self.folds}, what a fold leaves")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"expected a fold from 0 to {self.folds - 1}")
        return self
