"""Convolutions of signs by signs as OpenVINO's BinaryConvolution: packed bits, equal ones counted.

ONNX has no such operator, so it takes the place of a float convolution in the program that was read. OpenVINO 2026.4's
kernels for AVX2 were compared with PyTorch's sums, for 48 numbers of channels, 7 of filters, and 7 pairs of kernel and
stride: equal wherever input channels fill whole bytes, wrong for other numbers of channels.
"""

import numpy as np
import openvino
from openvino import opset1, opset13

from detpress.encodings.binary import COUNTS

WHOLE_BYTES = 8  # channels, of which the kernels need a multiple


def count_equal_bits(program: openvino.Model) -> None:
    """Changes the program in place: every convolution of signs whose channels fill whole bytes."""
    for node in program.get_ordered_ops():
        if node.get_type_name() != "Convolution" or not node.get_friendly_name().endswith(COUNTS):
            continue
        if node.input(1).get_shape()[1] % WHOLE_BYTES:
            continue
        found = binary_convolution(node)
        found.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(found.output(0))


def binary_convolution(node: openvino.Node) -> openvino.Node:
    """Of a convolution that takes Select(x > 0, 1, -1) and weights of -1 and 1."""
    x = node.input_value(0).get_node().input_value(0).get_node().input_value(0)
    weight = node.input_value(1).get_node().get_data()
    bits = np.packbits(weight.ravel() > 0, bitorder="little")
    packed = openvino.Tensor(bits, openvino.Shape(weight.shape), openvino.Type.u1)
    zero, one = (opset13.constant(np.full((1, 1, 1, 1), number, np.float32)) for number in (0, 1))
    how = node.get_attributes()
    return opset1.binary_convolution(
        opset13.fake_quantize(x, zero, zero, zero, one, 2),
        openvino.op.Constant(packed, shared_memory=False),
        how["strides"],
        how["pads_begin"],
        how["pads_end"],
        how["dilations"],
        "xnor-popcount",
        0.0,  # what is padded adds nothing
    )
