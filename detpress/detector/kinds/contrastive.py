"""Contrastive learning, which only counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from detpress.detector.darknet_section import Section
from detpress.detector.layer import Counted, Layer


@dataclass(frozen=True)
class Contrastive(Counted):
    """Passes on what it takes: embeddings by which Darknet learns to tell objects apart, and follows them.

    What is found in a picture does not depend on them.
    """

    section: ClassVar[str] = "contrastive"
    training_options: ClassVar[str] = (
        "classes temperature yolo_layer cls_normalizer max_delta contrastive_neg_max steps detection track"
    )

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls()

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {}
