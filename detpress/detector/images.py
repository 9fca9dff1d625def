"""From an image file to the network's input, and the way back for boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detpress.detector.architecture import Architecture, Resize
from detpress.errors import InputError
from detpress.files.pictures import is_turned, open_picture

VERSION = 1  # raised when the same file gives other pixels: it enters every key, and every measurement's digest
GREY = 114  # letterbox padding; the value that YOLO trainers use
MOST_PIXELS = 89_478_485  # where Pillow, too, begins to suspect a picture that is large only when it is decoded


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the input: x_input = x_image * scale_x + left, and so for y."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_input(self, boxes: Tensor) -> Tensor:
        """boxes: (n, 4) as x0, y0, x1, y1 edges in image pixels -> the same in pixels of the input."""
        scale = boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        return boxes * scale + boxes.new_tensor([self.left, self.top, self.left, self.top])

    def to_image(self, boxes: Tensor) -> Tensor:
        """The inverse of `to_input`."""
        scale = boxes.new_tensor([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        return (boxes - boxes.new_tensor([self.left, self.top, self.left, self.top])) / scale


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 (3, H, W), RGB, as stored: VOC's boxes refer to the stored rows, so EXIF rotation is not applied.

    size: the width and height that the annotation says; where they are those of the picture turned as its EXIF data
        say, as tools that show it upright write them, it is turned.
    Raises InputError for a file that is absent, no image that can be read, cut short, of more than `MOST_PIXELS`, of
    another size than `size`, or with values whose range is not known.
    """
    with open_picture(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise InputError(f"{path}: {image.width}x{image.height} pixels; expected at most {MOST_PIXELS:,} in all")
        pixels = np.array(_in_8_bits(_turned(image, path, size), path))
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _turned(image: Image.Image, path: Path, size: tuple[int, int] | None) -> Image.Image:
    if size is None or size == image.size:
        return image
    if image.size[::-1] == size and is_turned(image):
        return ImageOps.exif_transpose(image)
    width, height = image.size
    raise InputError(f"{path}: {width}x{height} pixels, but its annotation says {size[0]}x{size[1]}")


def _in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """In RGB; the 65,536 greys of 16 bits are brought to 256, which Pillow would clip."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise InputError(
            f"{path}: its pixels are {kind} (mode {image.mode}), whose range is not known; expected 8 or 16 bits"
        )
    return image.convert("RGB")


def place_image(image: Tensor, size: tuple[int, int], resize: Resize) -> tuple[Tensor, Placement]:
    """image: uint8 (3, H, W) -> uint8 of the height and width that `size` says, and where the image lies in it."""
    height, width = image.shape[-2:]
    whole_height, whole_width = size
    if resize == "stretch":
        inner_height, inner_width = size
    else:
        scale = min(whole_height / height, whole_width / width)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    left, top = (whole_width - inner_width) // 2, (whole_height - inner_height) // 2
    if (inner_height, inner_width) != (height, width):
        from torchvision.transforms.v2 import functional as transforms  # which takes seconds

        image = transforms.resize(image, [inner_height, inner_width], antialias=True)
    placed = torch.full((3, whole_height, whole_width), GREY, dtype=torch.uint8)
    placed[:, top : top + inner_height, left : left + inner_width] = image
    return placed, Placement(inner_width / width, inner_height / height, left, top)


def network_input(squares: Tensor) -> Tensor:
    """uint8 (N, 3, H, W), as images are read and kept -> float32 in [0, 1], as networks take them."""
    return squares.to(torch.float32, copy=True).div_(255)  # a third of the time of `squares / 255`, the same bits


def read_squares(
    paths: Sequence[Path], architecture: Architecture, sizes: Sequence[tuple[int, int] | None] | None = None
) -> Tensor:
    """The images as a network takes them: float32 (N, 3, H, W) in [0, 1]; N may be 0. sizes: for `read_image`."""
    size = architecture.input_size
    sizes = sizes or [None] * len(paths)
    images = (read_image(path, size) for path, size in zip(paths, sizes, strict=True))
    squares = [place_image(image, size, architecture.resize)[0] for image in images]
    return network_input(torch.stack(squares)) if squares else torch.zeros(0, 3, *size)
