"""An objective with a teacher: what all distillations share."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from detpress.builtin import find_bundle
from detpress.detector.architecture import Architecture
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.distillation.links import Link, check_classes, head_layers, head_links, heads_by_stride, named_links
from detpress.distillation.options import LinkedOptions, TeacherOptions
from detpress.distillation.predictions import Predictions, for_the_student, predictions
from detpress.encodings.bundle import load_bundle
from detpress.errors import InputError
from detpress.training.loss import weights_of_scales
from detpress.training.objective import Objective, TrainingStart, TrainingStep
from detpress.training.teacher import Teacher


class Taught(Objective):
    """Learns from a teacher, which is held: no gradient reaches it, and no step changes it.

    Any bundle may be the teacher that knows the same classes in the same order. It sees the images of the step at its
    own input size.
    """

    config: TeacherOptions
    answer: tuple[Tensor, tuple[tuple[Tensor, ...], dict[str, Tensor]]] | None = None  # to the images asked about last

    def check(self, model: Model) -> None:
        teacher = load_bundle(find_bundle(self.config.teacher))
        check_classes(model.architecture, teacher.architecture)
        self.pair(model.architecture, teacher)

    def prepare(self, start: TrainingStart) -> None:
        model = start.load(self.config.teacher)
        self.student, self.student_training = start.architecture, start.config
        self.teacher = Teacher(model, self.pair(start.architecture, model))

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        """Decides what learns from what, and which `layers` are wanted of the student; gives those of the teacher.

        By default heads learn from heads. Raises InputError where they do not fit.
        """
        self.heads = heads_by_stride(student, teacher.architecture)
        return ()

    @property
    def objectness_weights(self) -> list[float]:
        """Of the scales of the student that learn from the teacher."""
        weights = weights_of_scales(self.student_training, self.student)
        return [weights[heads.student] for heads in self.heads]

    def taught(self, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the teacher says of images (N, 3, S, S), at its own size: its raw maps, and what its layers gave.

        It is computed once for the images of a step, however often it is asked for.
        """
        if self.answer is None or self.answer[0] is not images:
            size, seen = self.teacher.architecture.input_size, images
            if tuple(images.shape[-2:]) != size:
                seen = functional.interpolate(images, size, mode="bilinear", antialias=True)
            self.answer = images, self.teacher(seen)
        return self.answer[1]

    def said(self, step: TrainingStep, raw_maps: Sequence[Tensor]) -> tuple[list[Predictions], list[Predictions]]:
        """What the student and the teacher say of the student's boxes, for each pair of heads.

        raw_maps: the teacher's, of the step's images.
        """
        teacher = self.teacher.architecture
        ours, theirs = [], []
        for heads in self.heads:
            raw = step.maps[heads.student]
            found = predictions(raw_maps[heads.teacher], teacher, heads.teacher)
            ours.append(predictions(raw, self.student, heads.student))
            theirs.append(for_the_student(found, teacher, self.student, heads, (raw.shape[-2], raw.shape[-1])))
        return ours, theirs


class Linked(Taught):
    """Draws layers of the student to layers of the teacher: what the heads take, unless its options name others.

    Where a layer has other channels than the teacher's, a 1x1 convolution that is thrown away afterwards gives it as
    many.
    """

    always_adapted: ClassVar[bool] = False  # by such a convolution where it has as many already, too

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        named = self.config.links if isinstance(self.config, LinkedOptions) else {}
        other = teacher.architecture
        self.links = named_links(student, other, named) if named else self.default_links(student, other)
        self.layers = [f"layers.{link.student}" for link in self.links]
        return [f"layers.{link.teacher}" for link in self.links]

    def prepare(self, start: TrainingStart) -> None:
        super().prepare(start)
        self.adapters = nn.ModuleList(self.adapter(link) for link in self.links)

    def default_links(self, student: Architecture, teacher: Architecture) -> Sequence[Link]:
        return head_links(student, teacher)

    def adapter(self, link: Link) -> nn.Module:
        """Gives a map of the student the teacher's channels."""
        if link.channels == link.teacher_channels and not self.always_adapted:
            return nn.Identity()
        return nn.Conv2d(link.channels, link.teacher_channels, kernel_size=1)

    def compared(self, step: TrainingStep, outputs: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each link the student's map, in the teacher's channels and size, and the teacher's: (N, C, H, W).

        outputs: what the teacher's layers gave of the step's images.
        """
        found = []
        for link, adapter in zip(self.links, self.adapters, strict=True):
            theirs = outputs[f"layers.{link.teacher}"].float()
            found.append((resized(adapter(step.outputs[f"layers.{link.student}"]).float(), theirs), theirs))
        return found


def check_way_back(teacher: Model) -> None:
    """Raises InputError where no gradient finds its way through the teacher's layers."""
    if teacher.form in (Form.INT8, Form.SIMULATED):
        raise InputError(
            f"teacher: is {teacher.form}, and no gradient passes through its heads; expected one that computes in float"
        )


def through_head(teacher: Teacher, place: int, maps: Tensor) -> Tensor:
    """The raw map that a teacher's head makes of maps such as it takes; gradients find the way back to them."""
    for layer in head_layers(teacher.architecture, place):
        maps = teacher.network.get_submodule(f"layers.{layer}")(maps)
    return maps


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (N, C, h, w) at the height and width of others, (N, ?, H, W)."""
    size: Any = like.shape[2:]
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="bilinear")
