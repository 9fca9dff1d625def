"""What the runtimes are called; importing it is cheap, as recipes are read before PyTorch is."""

from typing import Literal, get_args

RuntimeName = Literal["torch", "torch-compile", "onnxruntime", "openvino", "openvino-bf16"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


def package_of(runtime: str) -> str:
    """`openvino-bf16` is of the package openvino."""
    return runtime.partition("-")[0]
