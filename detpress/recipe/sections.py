"""The sections `data` and `model` of a recipe, and what a step may have beside its plugin."""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from detpress.detector.design import check_architecture
from detpress.errors import InputError
from detpress.options import Options
from detpress.voc.split import Split


class Data(Options):
    """The data set."""

    root: str = Field(description="`builtin:digits`, or the folder of a data set")
    classes: list[str] | None = Field(None, min_length=1, description="class names; by default the data set's own")
    train: str = Field("train", description="image set to train and calibrate on")
    val: str = Field("val", description="image set that plugins may choose by")
    test: str = Field("test", description="image set that every stage is scored on")
    split: Split | None = Field(None, description="makes the image sets of one: the shares `val` and `test`, by `seed`")
    bad_boxes: Literal["skip", "refuse"] = Field(
        "skip", description="boxes without area or outside the image: left out of training and counted, or an error"
    )

    @field_validator("classes")
    @classmethod
    def _distinct(cls, given: list[str] | None) -> list[str] | None:
        names = given or []
        for i, name in enumerate(names):
            if not name.strip():
                raise ValueError(f"class {i + 1} has no name")
            if name in names[:i]:
                raise ValueError(f"class '{name}' is named twice")
        return given


class ModelSource(Options):
    """The network that the chain starts from."""

    arch: str | None = Field(None, description="an architecture, as `detpress model` lists them")
    width: float | None = Field(None, ge=0.001, le=4, description="multiplies the filters of every layer; 1 by default")
    image_size: int | None = Field(None, ge=32, le=4096, multiple_of=32, description="side of the input in pixels")
    weights: str | None = Field(
        None, description="a bundle: `builtin:digits` or a folder; initial weights drawn from the seed by default"
    )
    classes: Literal["from_data"] | None = Field(
        None, description="with weights: their heads are made anew for the data set's classes, all else is kept"
    )
    anchors: Literal["published", "kmeans"] | None = Field(
        None, description="anchor boxes: those published with YOLOv3, or k-means on the training set"
    )
    resize: Literal["letterbox", "stretch"] | None = Field(
        None, description="how an image becomes square: proportions kept and padded, or stretched"
    )

    @field_validator("arch")
    @classmethod
    def _known(cls, given: str | None) -> str | None:
        try:
            if given is not None:
                check_architecture(given)
        except InputError as error:
            raise PydanticCustomError("unknown_name", "{said}", {"said": str(error)}) from error
        return given


class Running(Options):
    """The keys of a step beside its plugin: how it runs. None of them decides what comes out."""

    isolated: bool | None = Field(
        None, description="in a process of its own; by default, where another package brings the plugin"
    )
    timeout: float | None = Field(None, gt=0, le=31_536_000, description="seconds after which the step is ended")
    memory: float | None = Field(
        None, gt=0, le=1_000_000, description="GB (10^9 bytes) that the step may ask of the system at a time; on Linux"
    )

    @field_validator("timeout", "memory", mode="before")
    @classmethod
    def _in_its_unit(cls, given: object, info: ValidationInfo) -> object:
        if isinstance(given, str):
            unit = "GB" if info.field_name == "memory" else "seconds"
            raise ValueError(f"expected a number of {unit}, got '{given}'")
        return given

    @property
    def limited(self) -> bool:
        return self.timeout is not None or self.memory is not None

    @model_validator(mode="after")
    def _own_process(self) -> Self:
        if self.limited and self.isolated is False:
            raise ValueError("expected no `timeout` and no `memory` with `isolated: false`: a process has limits")
        return self
