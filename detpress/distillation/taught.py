"""An objective with a teacher: what all distillations share."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from detpress.builtin import find_bundle
from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.distillation.links import Link, check_classes, head_links, named_links
from detpress.distillation.options import LinkedOptions, TeacherOptions
from detpress.encodings.bundle import load_bundle
from detpress.training.objective import Objective, TrainingStart
from detpress.training.teacher import Teacher


class Taught(Objective):
    """Learns from a teacher, which is held: no gradient reaches it, and no step changes it.

    Any bundle may be the teacher that knows the same classes in the same order. It sees the images of the step at its
    own input size.
    """

    config: TeacherOptions

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

        Raises InputError where they do not fit.
        """
        raise NotImplementedError

    def taught(self, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the teacher says of images (N, 3, S, S), at its own size: its raw maps, and what its layers gave."""
        side = self.teacher.architecture.image_size
        if images.shape[-1] != side:
            images = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return self.teacher(images)


class Linked(Taught):
    """Draws layers of the student to layers of the teacher: what the heads take, unless links are named."""

    config: LinkedOptions

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        links = self.config.links
        self.links: tuple[Link, ...] = (
            named_links(student, teacher.architecture, links) if links else head_links(student, teacher.architecture)
        )
        self.layers = [f"layers.{link.student}" for link in self.links]
        return [f"layers.{link.teacher}" for link in self.links]


def adapters(links: Sequence[Link]) -> nn.ModuleList:
    """A 1x1 convolution to the teacher's channels for each link; nothing where there are as many already."""
    return nn.ModuleList(
        nn.Identity()
        if link.channels == link.teacher_channels
        else nn.Conv2d(link.channels, link.teacher_channels, kernel_size=1)
        for link in links
    )


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (N, C, h, w) at the height and width of others, (N, ?, H, W)."""
    size: Any = like.shape[2:]
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="bilinear")
