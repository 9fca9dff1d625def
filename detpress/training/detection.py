"""The detection loss, as an objective."""

from typing import Any, ClassVar

from detpress.training.loss import yolo_loss
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep


class Detection(Objective):
    """The detector's own loss (`detpress.training.loss`): boxes, objectness and classes.

    It is learnt in every training unless other objectives replace its terms `box`, `objectness` and `classes`. Its
    numbers are options of the training: box_loss, box_weight, class_weight, objectness_weights, ignore_threshold.
    weight: factor of all three.
    """

    TERMS: ClassVar[frozenset[str]] = frozenset({"box", "objectness", "classes"})
    on_several_devices = True

    def __init__(self, config: Any = None, weight: float = 1.0) -> None:
        super().__init__(config)
        self.weight = weight

    def prepare(self, start: TrainingStart) -> None:
        self.architecture, self.training_config = start.architecture, start.config

    def terms(self, step: TrainingStep) -> Terms:
        loss = yolo_loss(step.maps, step.targets, self.architecture, self.training_config)
        terms = {"box": loss.box, "objectness": loss.objectness, "classes": loss.classes}
        return {name: self.weight * term for name, term in terms.items()}
