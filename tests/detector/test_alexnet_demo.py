"""The file format of Deep Compression's authors, held against what their decode.py does, word by word."""

from pathlib import Path

import numpy as np
import pytest

from detpress.encodings.alexnet_demo import ALEXNET, DemoLayer, read_demo
from detpress.errors import InputError

LAYERS = (DemoLayer((4, 3, 5, 5), 8), DemoLayer((6, 40), 4))
KEPT = (40, 30)


def as_decode_py_has_it(
    count: int, spm_stream: np.ndarray, ind_stream: np.ndarray, codebook: np.ndarray, num_nz: int
) -> np.ndarray:
    """`binary_to_net` of github.com/songhan/Deep-Compression-AlexNet, its Python 2 divisions written out."""
    code = np.zeros(count, np.uint8)
    spm, ind = np.zeros(num_nz, np.uint8), np.zeros(num_nz, np.uint8)
    if np.log2(codebook.size) == 4:
        spm[np.arange(0, num_nz, 2)] = spm_stream % (2**4)
        spm[np.arange(1, num_nz, 2)] = spm_stream // (2**4)
    else:
        spm = spm_stream
    ind[np.arange(0, num_nz, 2)] = ind_stream % (2**4)
    ind[np.arange(1, num_nz, 2)] = ind_stream // (2**4)
    places = np.cumsum(ind.astype(np.int64) + 1) - 1
    code[places] = spm
    return codebook[code]


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A file of two layers, and the weights that decode.py makes of it."""
    random = np.random.default_rng(0)
    stored, expected = np.array(KEPT, "<u4").tobytes(), []
    for layer, kept in zip(LAYERS, KEPT, strict=True):
        codebook = random.normal(size=2**layer.bits).astype("<f4")
        codebook[0] = 0
        codes = random.integers(0, 256, kept * layer.bits // 8, np.uint8)
        gaps = random.integers(0, 4, kept // 2, np.uint8) + 16 * random.integers(0, 4, kept // 2, np.uint8)
        bias = np.arange(layer.shape[0], dtype="<f4")
        stored += codebook.tobytes() + bias.tobytes() + codes.tobytes() + gaps.tobytes()
        expected.append(as_decode_py_has_it(layer.weights, codes, gaps, codebook, kept).reshape(layer.shape))
    path = tmp_path / "compressed.net"
    path.write_bytes(stored)
    return path, expected


def test_it_reads_what_the_authors_program_reads(file: tuple[Path, list[np.ndarray]]) -> None:
    path, expected = file
    found = read_demo(path, LAYERS)
    for (weight, bias), wanted in zip(found, expected, strict=True):
        assert np.array_equal(weight.numpy(), wanted)
        assert np.count_nonzero(wanted) > 20
        assert bias.tolist() == list(range(len(wanted)))


def test_alexnet_has_its_61_million_parameters() -> None:
    assert sum(layer.weights + layer.shape[0] for layer in ALEXNET) == 60_965_224


def test_files_of_other_layers_are_refused(file: tuple[Path, list[np.ndarray]], tmp_path: Path) -> None:
    path, _ = file
    with pytest.raises(InputError, match=r"compressed\.net: \d+ bytes; its counts say"):
        read_demo(path)
    for size in (3, 100, path.stat().st_size - 1):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:size])
        with pytest.raises(InputError, match=r"cut: .* bytes; "):
            read_demo(tmp_path / "cut", LAYERS)
    beyond = bytearray(path.read_bytes())
    beyond[-15:] = b"\xff" * 15
    (tmp_path / "beyond").write_bytes(beyond)
    with pytest.raises(InputError, match=r"beyond: layer 2: gaps lead to place 479 of 240"):
        read_demo(tmp_path / "beyond", LAYERS)
    with pytest.raises(InputError, match="cannot be read"):
        read_demo(tmp_path, LAYERS)
