"""Weights in 4 and 8 bits: what a code stands for, and how codes lie in bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.packed import Bits, Packed, decode, pack, unpack
from detpress.errors import InputError


@given(st.sampled_from([4, 8]), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32))
def test_what_is_packed_comes_back(bits: Bits, rows: int, columns: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    stored = pack(codes, bits)
    assert stored.numel() == rows * -(-columns * bits // 8)
    assert torch.equal(unpack(stored, bits, columns), codes)


def test_two_codes_share_a_byte_the_first_in_its_lower_half() -> None:
    assert pack(torch.tensor([[1, 15, 7]], dtype=torch.uint8), 4).tolist() == [[0xF1, 0x07]]


def test_a_weight_is_code_less_zero_times_scale_times_gain() -> None:
    """Five weights a filter, in groups of two: the last group has one."""
    convolution = Packed(4, 2, symmetric=False).module(nn.Conv2d(5, 2, 1))
    codes = torch.tensor([[0, 15, 3, 4, 9], [1, 2, 3, 4, 5]], dtype=torch.uint8)
    tensors = {
        "codes": pack(codes, 4),
        "scale": torch.tensor([[0.5, 0.25, 2.0], [1.0, 1.0, 1.0]]).half(),
        "zero": torch.tensor([[8.0, 3.5, 0.0], [0.0, 0.0, 0.0]]).half(),
        "gain": torch.tensor([2.0, -1.0]),
        "bias": torch.tensor([0.0, 10.0]),
    }
    convolution.load_state_dict(tensors)
    expected = torch.tensor([[-8.0, 7.0, -0.25, 0.25, 36.0], [-1.0, -2.0, -3.0, -4.0, -5.0]])
    assert torch.equal(convolution.decoded.flatten(1), expected)
    assert convolution(torch.ones(1, 5, 1, 1)).flatten().tolist() == [35.0, -5.0]
    assert set(convolution.state_dict()) == set(tensors), "the unpacked weight is not stored"


def test_symmetric_codes_have_their_zero_in_the_middle() -> None:
    packing = Packed(8, -1, symmetric=True)
    found = decode(torch.tensor([[0, 128, 255]], dtype=torch.uint8), torch.tensor([[0.5]]).half(), None, packing)
    assert found.tolist() == [[-64.0, 0.0, 63.5]]


@pytest.mark.parametrize(
    "description",
    [{}, {"bits": 3, "group_size": 32, "symmetric": True}, {"bits": 4, "group_size": 0, "symmetric": True},
     {"bits": 4, "group_size": 32, "symmetric": True, "layers": [0]}],
)  # fmt: skip
def test_a_description_of_no_packing_is_refused(description: dict) -> None:
    with pytest.raises(InputError, match=r"^here: "):
        Packed.from_dict("here", description)


def test_only_convolutions_can_be_packed(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.4: encoded as Packed, but not a convolution"):
        Network(dense_model.architecture, {4: Packed(4, 32, True)})
