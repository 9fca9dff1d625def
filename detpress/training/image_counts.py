"""How many images there are to learn from and to choose by."""

import math
from dataclasses import dataclass

from detpress.errors import InputError
from detpress.options import Options


@dataclass(frozen=True)
class ImageCounts:
    """Images in the sets that a plugin may use; infinitely many where the data set is not at hand.

    train: training images; learnt: those with an object to learn.
    val: validation images with such an object; 0 where there is no such set.
    """

    train_set: str = "train"
    train: float = math.inf
    learnt: float = math.inf
    val: float = math.inf

    def check_asked(self, config: Options, option: str) -> None:
        """Raises InputError where the recipe asks for more training images than there are; a default may."""
        asked = getattr(config, option)
        if asked > self.train and not config.is_default(option):
            raise InputError(f"{option}: {asked} asked for, but the image set '{self.train_set}' has {self.train}")

    def check_learnt(self) -> None:
        """Raises InputError where there is nothing to learn."""
        if self.learnt == 0:
            raise InputError(f"the image set '{self.train_set}' holds no object to learn")

    def check_validation(self, what: str = "") -> None:
        """Raises InputError, beginning with `what` chooses, where there is nothing to choose by."""
        if self.val == 0:
            raise InputError(f"{what}needs validation images with objects, and data.val names no set that has some")
