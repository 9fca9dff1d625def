"""From an image file to the network's square input, and the way back for boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from detpress.detector.architecture import Architecture, Resize
from detpress.errors import InputError

GREY = 114  # letterbox padding; the value that YOLO trainers use


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the square: x_input = x_image * scale_x + left, and so for y."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_input(self, boxes: Tensor) -> Tensor:
        """boxes: (n, 4) as x0, y0, x1, y1 edges in image pixels -> the same in pixels of the square."""
        scale = boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        return boxes * scale + boxes.new_tensor([self.left, self.top, self.left, self.top])

    def to_image(self, boxes: Tensor) -> Tensor:
        """The inverse of `to_input`."""
        scale = boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        return (boxes - boxes.new_tensor([self.left, self.top, self.left, self.top])) / scale


def read_image(path: Path) -> Tensor:
    """uint8 (3, H, W), RGB, as stored (VOC's boxes refer to the stored rows, so EXIF rotation is not applied).

    Raises InputError for a file that is absent, no image, or cut short.
    """
    try:
        with Image.open(path) as image:
            pixels: Tensor = transforms.pil_to_tensor(image.convert("RGB"))
            return pixels
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error


def place_image(image: Tensor, size: int, resize: Resize) -> tuple[Tensor, Placement]:
    """image: uint8 (3, H, W) -> uint8 (3, size, size) and where the image lies in it."""
    height, width = image.shape[-2:]
    if resize == "stretch":
        inner_height = inner_width = size
    else:
        scale = size / max(height, width)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    if (inner_height, inner_width) != (height, width):
        image = transforms.resize(image, [inner_height, inner_width], antialias=True)
    square = torch.full((3, size, size), GREY, dtype=torch.uint8)
    square[:, top : top + inner_height, left : left + inner_width] = image
    return square, Placement(inner_width / width, inner_height / height, left, top)


def read_squares(paths: Sequence[Path], architecture: Architecture) -> Tensor:
    """The images as a network takes them: float32 (N, 3, S, S) in [0, 1]; N may be 0."""
    side = architecture.image_size
    squares = [place_image(read_image(path), side, architecture.resize)[0] for path in paths]
    return torch.stack(squares).float() / 255 if squares else torch.zeros(0, 3, side, side)
