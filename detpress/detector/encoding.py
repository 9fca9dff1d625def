"""How the weights of one convolution are kept and computed.

    Float32                 weight (F, I, k, k) float32, BatchNorm behind it        what a new network has
    Int8(input=...)         weight int8, a scale a filter, BatchNorm folded in      executed in integers
    Packed(4, 32, ...)      codes uint8, two a byte, a scale a group                unpacked, computed in float

An encoding is a frozen dataclass, found by its name in model.json through the entry-point group `detpress.encodings`,
the built-in ones too. Its fields are that entry; the numbers are tensors of the module that it makes. Layers of one
network may be encoded differently.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.geometry import Geometry
from detpress.errors import InputError
from detpress.files.plain_json import check_keys

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

Precision = Literal["fp32", "bf16", "fp16", "int8", "binary"]
SIXTEEN_BITS = frozenset({"bf16", "fp16"})


class Encoding(ABC):
    """Of one convolution with weights (F, I, k, k); `tensors` are what its module keeps, by their names there.

    One tensor is called `bias`, float32 (F,), unless BatchNorm is kept and adds it.
    """

    keeps_norm: ClassVar[bool] = (
        False  # BatchNorm stays behind the convolution; False: it is folded into weight and bias
    )
    simulated: ClassVar[bool] = False  # in PyTorch, its speed and memory are not those of what it stands for

    @property
    @abstractmethod
    def stored_bits(self) -> int:
        """Of one weight, scales not counted."""

    @property
    def precision(self) -> Precision:
        """What a runtime that does as the encoding says computes the convolution in."""
        return "fp32"

    @property
    def rounds_input(self) -> bool:
        """Whether more than the weights is rounded: then no float convolution does the same."""
        return False

    @abstractmethod
    def module(self, like: nn.Conv2d) -> "EncodedConvolution | nn.Conv2d":
        """What computes the convolution: takes and gives float32, has the shapes and the stride of `like`.

        like: without memory. The tensors are filled by `load_state_dict` later.
        """

    @abstractmethod
    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """The values that are stored: float32 of `shape`, (F, I, k, k)."""

    def rounded(self, x: Tensor) -> Tensor:
        """What is made of the input before an `EncodedConvolution` computes."""
        return x

    def stored_bytes(self, tensors: Mapping[str, Tensor]) -> int:
        """Of the tensors, where they are stored as densely as the encoding allows."""
        return sum(tensor.nbytes for tensor in tensors.values())

    def to_onnx(self, graph: "Graph", x: str, name: str, convolution: "EncodedConvolution | nn.Conv2d") -> str:
        """Adds to an ONNX graph what the convolution `name` makes of `x`; by default in float.

        Returns the name of what is given.
        """
        if self.rounds_input:
            raise InputError(f"{name}: what {type(self).__name__} rounds is not written in a graph of integers")
        tensors = convolution.state_dict()
        weight = self.weight(tensors, weight_shape(convolution))
        return graph.convolution(x, name, geometry(convolution), weight, tensors["bias"])

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data for JSON; `from_dict` is its inverse."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, where: str, data: dict[str, Any]) -> Self:
        """Raises InputError, beginning with `where`, where `data` has other fields, or others' values."""
        every = fields(cls)  # type: ignore[arg-type]
        required = [field.name for field in every if field.default is field.default_factory is MISSING]
        check_keys(where, data, required, [field.name for field in every])
        try:
            found: Self = _adapter(cls).validate_python(data)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (ValidationError, OverflowError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            raise InputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return found


@cache
def _adapter(kind: type[Encoding]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class EncodedConvolution(nn.Module):
    """Computes with what its tensors stand for, anew in every run."""

    def __init__(self, encoding: Encoding, like: nn.Conv2d, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoding = encoding
        self.shape = like.weight.shape
        self.geometry = Geometry.of(like)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoding.rounded(x)
        return self.convolved(x, self.encoding.weight(self.tensors(), self.shape))

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        how, bias = self.geometry, self.tensors()["bias"]
        return functional.conv2d(x, weight, bias, how.stride, how.padding, how.dilation, how.groups)

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}


class UnpackedConvolution(EncodedConvolution):
    """Decodes its weights once, when its tensors are loaded: as fast, and as large in memory, as in float."""

    def __init__(self, encoding: Encoding, like: nn.Conv2d, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(encoding, like, tensors)
        self.register_buffer("decoded", torch.zeros(self.shape), persistent=False)
        self.register_load_state_dict_post_hook(_decode)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(self.encoding.rounded(x), self.get_buffer("decoded"))


def _decode(convolution: UnpackedConvolution, keys: object) -> None:
    convolution.decoded = convolution.encoding.weight(convolution.state_dict(), convolution.shape)


def geometry(convolution: EncodedConvolution | nn.Conv2d) -> Geometry:
    return convolution.geometry if isinstance(convolution, EncodedConvolution) else Geometry.of(convolution)


def weight_shape(convolution: EncodedConvolution | nn.Conv2d) -> torch.Size:
    """(F, I, k, k)"""
    return convolution.shape if isinstance(convolution, EncodedConvolution) else convolution.weight.shape
