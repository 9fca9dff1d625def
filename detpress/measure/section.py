"""The section `measure` of a recipe."""

from pydantic import Field, field_validator

from detpress.options import Options
from detpress.runtimes.names import RuntimeName
from detpress.voc.protocol import Protocol


class Measure(Options):
    """How every stage is measured."""

    protocol: Protocol = Field("voc07", description="how average precision is computed")
    iou: float = Field(0.5, gt=0, lt=1, description="IoU above which a detection matches (coco has its own ten)")
    runtimes: list[RuntimeName] = Field(["torch", "openvino"], description="runtimes whose latency is measured")
    max_detections: int = Field(
        100, ge=1, le=10_000, description="objects an image may have; the best are kept (coco counts 100 a class)"
    )
    batch: int = Field(1, ge=1, le=1024, description="images a batch when latency is measured")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of a runtime; one a core by default")
    memory: bool = Field(True, description="measure the peak memory, which takes a process of its own")
    max_map_loss: float | None = Field(
        None, gt=0, le=1, description="share of its parent's mAP that a stage may lose before the chain is stopped"
    )

    @field_validator("runtimes")
    @classmethod
    def _each_once(cls, runtimes: list[RuntimeName]) -> list[RuntimeName]:
        if len(set(runtimes)) < len(runtimes):
            raise ValueError("expected each runtime once")
        return runtimes
