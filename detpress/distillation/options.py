"""What the objectives of this package may be told. No PyTorch, so that listing plugins stays quick."""

from typing import Literal

from pydantic import Field

from detpress.options import BundleName, Options


class TeacherOptions(Options):
    """Who teaches."""

    teacher: BundleName = Field(
        description="the teacher's bundle: a shipped one such as `builtin:digits`, or its folder"
    )


class LinkedOptions(TeacherOptions):
    """Who teaches, and which layers learn from which."""

    links: dict[str, str] = Field(
        {},
        description="student's layer -> teacher's layer, by name: {layers.79: layers.79}; by default what each head "
        "takes, its last two convolutions being the head, to what the teacher's head of that stride takes",
    )


class PkdOptions(LinkedOptions):
    """PKD's."""

    weight: float = Field(10.0, gt=0, description="factor of each link's loss")
    score_weighted: bool = Field(
        False, description="whether a place counts by the teacher's best score there, instead of all places alike"
    )


class CrossKdOptions(TeacherOptions):
    """CrossKD's."""

    weight: float = Field(1.0, gt=0, description="factor of what the teacher's heads say of the student's maps")


class DetectorOptions(CrossKdOptions):
    """CrossKD's, with PKD beside it."""

    pkd_weight: float = Field(2.0, gt=0, description="factor of PKD on what each head takes")
    score_weighted: bool = Field(
        True, description="whether PKD counts a place by the teacher's best score there, instead of all places alike"
    )


class HintonOptions(TeacherOptions):
    """Soft targets'."""

    temperature: float = Field(2.0, gt=0, description="T, by which both networks' logits are divided")
    weight: float = Field(1.0, gt=0, description="factor of the soft targets' cross-entropy, T^2 apart")


class ChenOptions(LinkedOptions):
    """Chen's."""

    mu: float = Field(
        0.7, ge=0, le=1, description="share of the objects in what scores learn; the rest is the teacher's"
    )
    background_weight: float = Field(1.5, gt=0, description="of the background in the soft objectness; objects have 1")
    nu: float = Field(0.5, ge=0, description="factor of the bounded loss of boxes")
    margin: float = Field(1e-5, ge=0, description="m, by which a box must be better than the teacher's to be let alone")
    hint: Literal["l2", "l1"] = Field("l2", description="distance of linked maps: mean squared or mean absolute")
    hint_weight: float = Field(0.5, ge=0, description="factor of the linked maps' loss")


class FitnetsOptions(LinkedOptions):
    """FitNets'."""

    links: dict[str, str] = Field(
        {},
        description="student's guided layer -> teacher's hint layer, by name: {layers.36: layers.36}; by default the "
        "last layer of stride 16 in the backbone, which is about the middle",
    )
    hint_epochs: int = Field(ge=1, le=10_000, description="of the first stage, otherwise trained as the second")
    temperature: float = Field(
        3.0, gt=0, description="T of the soft targets, by which both networks' logits are divided"
    )
    first_weight: float = Field(
        4.0, ge=0, description="lambda, of the soft targets, in the first step of the second stage"
    )
    last_weight: float = Field(1.0, ge=0, description="lambda as it ends; linear between")


class GanOptions(TeacherOptions):
    """Of the adversarial distillation."""

    weight: float = Field(1.0, ge=0, description="factor of what the critics say of the student's maps")
    head_weight: float = Field(
        1.0, ge=0, description="factor of the detection loss of these maps by the teacher's heads"
    )
    clip: float = Field(0.03, gt=0, description="largest weight of a critic")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="the critics', by Adam")


class KdganOptions(TeacherOptions):
    """KDGAN's."""

    weight: float = Field(1.0, gt=0, description="factor of what the student learns from the other two")
    alpha: float = Field(
        0.8, ge=0, le=1, description="the teacher's share of the adversarial losses, the student has the rest"
    )
    beta: float = Field(2.0, ge=0, description="how much the student imitates the teacher")
    gamma: float = Field(1e-4, ge=0, description="how much the teacher imitates the student")
    discriminator_learning_rate: float = Field(1e-3, gt=0, le=1, description="the discriminator's, by Adam")
    teacher_learning_rate: float = Field(
        5e-4, ge=0, le=1, description="of the copy of the teacher that learns, by Adam"
    )
