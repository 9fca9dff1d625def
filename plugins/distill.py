"""Distillations: a student learns its own task and, beside it, from a teacher.

chain:
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup: {}
  - distill.pkd: {teacher: "builtin:digits", training: {epochs: 8}}

Each is an objective of the same name (`detpress.distillation`), so that other trainings can have it beside what they
learn: `train.finetune: {epochs: 8, objectives: [{distill.pkd: {teacher: "builtin:digits"}}]}`.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.distillation.options import (
    ChenOptions,
    CrossKdOptions,
    DetectorOptions,
    FitnetsOptions,
    HintonOptions,
    PkdOptions,
)
from detpress.options import Options
from detpress.training.config import ChoosingConfig, TrainingConfig
from detpress.training.image_counts import ImageCounts
from detpress.training.named_objective import load_objective

if TYPE_CHECKING:
    from detpress.detector.model import Model
    from detpress.training.objective import Objective


class Training(Options):
    """How the student is trained, and how much its own loss counts."""

    detection_weight: float = Field(1.0, ge=0, description="factor of the detector's own loss; 0: the teacher alone")
    training: ChoosingConfig


class Distiller(Plugin):
    """Trains a student with a teacher beside the detector's own loss.

    The teacher may be any bundle with the same classes in the same order, of another architecture, width or input size;
    the student any dense network or one with masks, which are held.
    """

    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None
    engine = "pytorch-lightning"
    objective: ClassVar[str]  # its name among `detpress.objectives`
    replaces_detection: ClassVar[bool] = False  # it has the detector's own loss in it

    def plan(self, model: "Model", config: Any) -> Plan:
        return Plan((), model)

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        from detpress.training.objective import check_devices

        super().check(model, config, images)
        objectives = self.objectives(config)
        for objective in objectives:
            objective.check(model)
        check_devices(config.training.devices, objectives, place="training.")

    def objectives(self, config: Any) -> "tuple[Objective, ...]":
        """What is learnt."""
        from detpress.training.detection import Detection

        taught = load_objective(self.objective)(config)
        return (taught,) if self.replaces_detection else (Detection(weight=config.detection_weight), taught)

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        return bench.fit(model, config.training, self.objectives(config))


class PkdConfig(PkdOptions, Training):
    """PKD's, and the training."""


class Pkd(Distiller):
    """Draws each linked map of the student to one that correlates with the teacher's, channel by channel.

    Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    arXiv:2207.02039, 2022; its loss was read in open-mmlab/mmrazor. Both maps are standardised by channel over images
    and places, so that neither scale nor shift counts; half of their mean squared difference is the loss, 1 - r. weight
    is that of the published one-stage detectors (RetinaNet, RepPoints); they have 6 for Faster R-CNN.

    What differs: there, levels of a feature pyramid of equal channels in both networks are linked; here by default what
    YOLOv3's heads take, after the activation. Where channels differ, a 1x1 convolution that is thrown away afterwards
    maps the student's to the teacher's. Channels that are constant in either map are left out. score_weighted is not in
    the paper.
    """

    Config = PkdConfig
    objective = "distill.pkd"


class CrossKdConfig(CrossKdOptions, Training):
    """CrossKD's, and the training."""


class CrossKd(Distiller):
    """The teacher's heads read the student's maps, and shall find there what they find in the teacher's own.

    Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv:2306.11369, 2024; read in
    jbwang1997/CrossKD. The student's map gets the teacher's mean and deviation in each channel and passes through the
    teacher's last head layers, which are held. Scores found there are drawn to the teacher's by cross-entropy times the
    distance of the two probabilities, boxes by GIoU with the teacher's score as weight, both with the factor 1. The
    student's own heads learn from the objects alone.

    What differs for YOLOv3: the head layers reused are the last 3x3 and 1x1 convolution, so the map is the one that
    they take, after its activation; published are the last of four shared 3x3 and a 1x1, from before an activation.
    Scores are an objectness and classes, each logistic: objectness is drawn everywhere, classes where the teacher's
    objectness is. Each part has the weight and the mean of its counterpart in the detection loss, with the teacher's
    scores instead of the boxes responsible for objects. Where channels differ, a 1x1 convolution that is thrown away
    afterwards maps the student's to the teacher's; both networks of the paper have the same.
    """

    Config = CrossKdConfig
    objective = "distill.crosskd"


class DetectorConfig(DetectorOptions, Training):
    """PKD's and CrossKD's, and the training."""


class Detector(Distiller):
    """PKD and CrossKD together: the maps that heads take correlate with the teacher's, whose heads read both alike.

    Cao et al., "PKD", arXiv:2207.02039, 2022, and Wang et al., "CrossKD", arXiv:2306.11369, 2024: the cards of
    `distill.pkd` and `distill.crosskd` have what is published of each and what differs here. jbwang1997/CrossKD trains
    both together, too, with PKD's weight at 2, which is the default here. score_weighted, PKD by the teacher's scores,
    is no part of that: without it, places without an object are most of what PKD sees.
    """

    Config = DetectorConfig
    objective = "distill.detector"


class HintonConfig(HintonOptions, Training):
    """Soft targets', and the training."""

    detection_weight: float = Field(0.5, ge=0, description="factor of the detector's own loss; 0: the teacher alone")


class Hinton(Distiller):
    """The student's objectness and classes are drawn to the teacher's, both softened by a temperature.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, 2015: cross-entropy with
    the teacher's softened probabilities, times T^2, and with the labels at a lower weight. T and that weight are those
    of its speech recognizer, from memory: the paper could not be read here.

    What differs for YOLOv3: classes are logistic, so each logit is softened by itself, as is the objectness; classes
    count by the teacher's objectness, and both have the weights and means of the detection loss. Boxes learn from the
    objects alone. Where anchors or sizes of maps differ, the teacher's nearest anchor and its surest place count.
    """

    Config = HintonConfig
    objective = "distill.hinton"


class ChenConfig(ChenOptions):
    """Chen's, and the training."""

    training: ChoosingConfig


class Chen(Distiller):
    """Scores learn from objects and teacher, boxes only where the teacher's are better, and linked maps by hints.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017: scores by mu times
    the loss of the labels and 1 - mu times the cross-entropy with the teacher's, the background weighted 1.5; boxes by
    their own loss and nu times |R_s - y|^2, 0 where |R_s - y|^2 + m <= |R_t - y|^2; hints by L2 through a 1x1
    convolution, at equal widths, too. nu, the 1.5 and the hints' factor are the paper's, read second hand; mu and m are
    not in it, these are those of Salvi and Barros, KDMiLe 2020 (AndreydeAguiarSalvi/yolo_compression), which also has
    `hint: l1` and a LeakyReLU behind the convolution.

    What differs for YOLOv3, which has no background class and one stage: an objectness that says no is the background;
    classes are logistic, have the weight 1 and count by the teacher's objectness. The boxes' own loss is the
    detector's (GIoU by default) instead of smooth L1; the bounded one is of YOLOv3's x, y, w, h, of each box that is
    responsible for an object. By default the hints are what the heads take.
    """

    Config = ChenConfig
    objective = "distill.chen"
    replaces_detection = True


class FitnetsConfig(FitnetsOptions, Training):
    """FitNets', and the training of the second stage."""


class Fitnets(Distiller):
    """First the lower half of the student learns the teacher's hints alone, then all of it its task and soft targets.

    Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, 2015; read in adri-romsor/FitNets. Stage 1:
    half the squared difference of the teacher's hint and the guided layer, behind a regressor with the teacher's
    non-linearity where the widths differ; layers behind the guided one stay as they are. Stage 2: the own loss and
    lambda times the cross-entropy at T = 3, without the factor T^2, lambda falling linearly from 4 to 1.

    What differs: the regressor is 1x1 and maps of other sizes are interpolated, where the paper has kernels that make
    them smaller. lambda falls over the whole of stage 2; published from epoch 5 to 400 of 500. Scores of YOLOv3 are
    softened as in `distill.hinton`. A student that starts trained loses in stage 1 what it knew, unless hint_epochs
    and learning rate are small.
    """

    Config = FitnetsConfig

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        from detpress.distillation.fitnets import Hint

        super().check(model, config, images)
        Hint(config).check(model)

    def objectives(self, config: Any) -> "tuple[Objective, ...]":
        from detpress.distillation.fitnets import FadingTargets
        from detpress.training.detection import Detection

        return (Detection(weight=config.detection_weight), FadingTargets(config))

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        from detpress.distillation.fitnets import Hint

        def hinted() -> "Model":
            hint = Hint(config)
            options = {name: value for name, value in config.training if name != "choose"}
            training = TrainingConfig(**options | {"epochs": config.hint_epochs})
            return model.with_network(hint.only_guided(bench.fit(model, training, (hint,)).network, model.network))

        guided = bench.remember_model({"trained": "hints"}, hinted)
        return super().apply(model.with_network(guided.network), config, bench)
