"""From a file to the network's square, and back for boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detpress.detector.architecture import Resize
from detpress.detector.images import GREY, place_image, read_image
from detpress.errors import InputError

RED = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_reads_rgb_as_stored(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (6, 4), (200, 100, 50)).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 4, 6))
    assert (image[:, 2, 3].int() - torch.tensor([200, 100, 50])).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(path)
    assert read_image(path).tolist() == torch.full((3, 3, 5), 255).tolist()


def test_a_rotation_in_the_exif_is_not_applied_as_vocs_boxes_refer_to_stored_rows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to display
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert tuple(read_image(tmp_path / "a.jpg").shape) == (3, 4, 8)


@pytest.mark.parametrize(("orientation", "size"), [(6, (4, 8)), (5, (4, 8)), (8, (4, 8)), (3, (8, 4))])
def test_a_picture_lies_as_its_annotation_has_it(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert tuple(read_image(tmp_path / "a.jpg", size).shape) == (3, size[1], size[0])


@pytest.mark.parametrize("size", [(4, 8), (16, 8), (8, 5)])
def test_a_picture_of_another_size_than_annotated_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    said = rf"a\.png: 8x4 pixels, but its annotation says {size[0]}x{size[1]}"
    with pytest.raises(InputError, match=said):
        read_image(tmp_path / "a.png", size)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_of_grey_become_8(tmp_path: Path, suffix: str) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values * 257).save(tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}").tolist() == np.stack([values] * 3).tolist()


@pytest.mark.parametrize(("mode", "kind"), [("F", "floating-point numbers"), ("I", "32-bit integers")])
def test_pixels_whose_range_is_not_known_are_refused(tmp_path: Path, mode: str, kind: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif: its pixels are {kind} \(mode {mode}\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("side", [9_500, 13_300, 14_000])
def test_a_picture_too_large_for_the_memory_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png: .*({side}x{side}|{side * side}) pixels.*"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "name"), [(b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"), (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF")]
)
def test_a_picture_of_another_format_than_its_name_says_is_told(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot be read as an image \(found {name}; expected one of JPEG, PNG"):
        read_image(tmp_path / "a.jpg")


def test_a_letterbox_keeps_proportions_and_centres_on_grey() -> None:
    square, placement = place_image(RED.expand(3, 20, 40), (64, 64), "letterbox")
    assert square[:, 16:48].eq(RED).all()
    assert square[:, :16].eq(GREY).all()
    assert square[:, 48:].eq(GREY).all()
    assert placement.to_input(torch.tensor([[0.0, 0.0, 40.0, 20.0]])).tolist() == [[0, 16, 64, 48]]


def test_a_stretched_image_fills_the_square() -> None:
    square, placement = place_image(RED.expand(3, 20, 40), (64, 64), "stretch")
    assert square.eq(RED).all()
    assert placement.to_input(torch.tensor([[10.0, 5.0, 20.0, 20.0]])).tolist() == [[16, 16, 32, 64]]


def test_an_image_of_the_squares_size_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for resize in ("letterbox", "stretch"):
        assert torch.equal(place_image(image, (32, 32), resize)[0], image)


@settings(deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([32, 64]),
    st.sampled_from(["letterbox", "stretch"]),
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_boxes_come_back_and_lie_in_the_square(
    width: int, height: int, size: int, resize: Resize, share: list[float]
) -> None:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    square, placement = place_image(image, (size, size), resize)
    assert tuple(square.shape) == (3, size, size)
    boxes = torch.tensor([share]) * torch.tensor([width, height, width, height])
    placed = placement.to_input(boxes)
    assert placed.min() >= -1e-3
    assert placed.max() <= size + 1e-3
    assert torch.allclose(placement.to_image(placed), boxes, atol=1e-3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: no such image"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(path)
