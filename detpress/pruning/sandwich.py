"""A network trained so that the smaller ones inside of it work, too, as an objective."""

import random
from collections.abc import Callable
from functools import cache

from torch import Tensor, nn
from torch.func import functional_call

from detpress.detector.coupling import by_convolution
from detpress.detector.narrowing import narrowing
from detpress.detector.network import Network, without_memory
from detpress.detector.removal import without_blocks
from detpress.pruning.budgets import Cut
from detpress.training.loss import yolo_loss
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep


class Inherited:
    """What is left of a network after a cut, computed with the whole network's tensors: gradients go back into these.

    It owns nothing, so it is no module.
    """

    def __init__(self, whole: Network, cut: Cut) -> None:
        self.narrowing = narrowing(whole, by_convolution(whole.architecture, cut.kept))
        self.removal = without_blocks(self.narrowing.architecture, cut.blocks)
        with without_memory():
            self.network = Network(self.removal.architecture).train()

    def maps(self, whole: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Raw maps, by the batch's own statistics; what the whole network's BatchNorms remember stays as it is."""
        remembered = {name: tensor.clone() for name, tensor in whole.named_buffers()}
        tensors = self.narrowing.tensors(dict(whole.named_parameters()) | remembered)
        found: tuple[Tensor, ...] = functional_call(self.network, self.removal.renamed(tensors), (images,))
        return found


class Sandwich(Objective):
    """Beside the whole network, in every step the smallest one inside of it and some others learn, with its weights.

    The sandwich rule: Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    arXiv:1903.05134, 2019: the largest, the smallest and two at random. Their losses are added up. Changed: all learn
    the detection loss; there, and in BigNAS (Yu et al., arXiv:2003.11142, 2020), the smaller ones learn what the
    largest says.
    """

    def __init__(self, whole: Network, smallest: Cut, other: Callable[[int], Cut], others: int, at_random: int) -> None:
        """other: gives the others, by their numbers from 0 to below `others`; `at_random` are drawn for each step."""
        super().__init__()
        self.smallest, self.others, self.at_random = Inherited(whole, smallest), others, at_random
        self.other = cache(lambda number: Inherited(whole, other(number)))

    def prepare(self, start: TrainingStart) -> None:
        self.training_config = start.config

    def terms(self, step: TrainingStep) -> Terms:
        drawn = random.sample(range(self.others), self.at_random)
        terms = {"smallest": self._loss(self.smallest, step)}
        return terms | {f"random_{k}": self._loss(self.other(number), step) for k, number in enumerate(drawn, start=1)}

    def _loss(self, member: Inherited, step: TrainingStep) -> Tensor:
        maps = member.maps(step.network, step.images)
        return yolo_loss(maps, step.targets, member.network.architecture, self.training_config).total
