"""What a recipe says of how its image sets are made of one."""

from pydantic import Field, model_validator

from detpress.options import Options


class Split(Options):
    """Image sets `train`, `val` and `test` made of one."""

    val: float = Field(0.0, ge=0, lt=1, description="share of the images that go to the image set `val`")
    test: float = Field(0.0, ge=0, lt=1, description="share of the images that go to the image set `test`")
    seed: int = Field(0, ge=0, lt=2**32, description="decides which; the recipe's own seed does not")
    of: str | None = Field(None, description="the image set that is split; `train`, or the only one, by default")

    @model_validator(mode="after")
    def _leaves_some(self) -> "Split":
        if not 0 < self.val + self.test < 1:
            raise ValueError("expected val and test such that their sum is above 0 and below 1")
        return self
