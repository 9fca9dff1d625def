"""What a kind of layer says of itself. A network is a list of such layers (see `detpress.detector.architecture`).

    0  Convolution(32, size=3)      made: 32 channels of its own, of all that it takes
    1  MaxPool(2, stride=2)         passed: channel k is made of channel k
    2  Convolution(64, size=1)
    3  Convolution(64, size=3)
    4  Shortcut(source=2)           added: channel k of layer 3 and channel k of layer 2 go or stay together
    5  Route(sources=(4, 1))        beside: the channels of layer 4, then those of layer 1

A kind is a frozen dataclass, found by its name in model.json through the entry-point group `detpress.layers`, the
built-in ones too.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from detpress.errors import InputError, shortened
from detpress.files.plain_json import check_keys

if TYPE_CHECKING:
    from torch import nn

    from detpress.detector.darknet_section import Section
    from detpress.detector.onnx_graph import Graph

LARGEST_COUNT = 2**16  # filters, classes, pixels of a side: more is a mistake, and would be allocated

# How the channels that a layer gives hang together with those that it takes:
#   made        of all channels that it takes, by filters
#   filtered    in parts that see only each other, by filters: a convolution with groups, such as a depthwise one
#   passed      one by one, of what it takes; where a channel is zero, so is what is made of it
#   added       as passed, of several maps: zero where all are
#   multiplied  as passed, of several maps: zero where any is
#   beside      those of all maps that it takes, one map after the other
#   part        as beside, of one of the equal parts of each map
#   repeated    those of the one map that it takes, several times, one time after the other
#   fixed       not known: no channel that it takes or gives can be removed
Channels = Literal["made", "filtered", "passed", "added", "multiplied", "beside", "part", "repeated", "fixed"]


@dataclass(frozen=True)
class FeatureMap:
    """What a layer gives for one image. height, width: pixels; a square where no width is given."""

    channels: int
    height: int
    width: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.width is None:
            object.__setattr__(self, "width", self.height)

    @property
    def size(self) -> int | tuple[int, int]:
        """The side of a square, or height and width."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def side(self) -> int:
        """Of a square. Raises InputError for another map: whoever asks knows of squares only."""
        if isinstance(self.size, tuple):
            raise InputError(f"takes square maps only, and gets {self}")
        return self.size

    def __str__(self) -> str:
        return f"{self.channels} channels of {self.height} x {self.width}"


@dataclass(frozen=True)
class Layer(ABC):
    """One layer; its fields are its options, all of which model.json has but the name.

    Maps that a layer takes are given to its methods in the order of `inputs`.
    name: where its number has changed since it was named; `layers.3` is layer 3 by default.
    """

    name: str | None = field(default=None, kw_only=True, repr=False)

    keeps_zeros: ClassVar[bool] = True  # a filter of zeros gives a channel of zeros, where it has filters
    takes_before: ClassVar[bool] = True  # the map that the layer before it gives, as the first
    passes_on: ClassVar[bool] = False  # gives the one map that it takes as it is, and computes nothing
    section: ClassVar[str | None] = None  # what Darknet calls it; None: Darknet has no such layer
    section_options: ClassVar[str] = ""  # which a section may have, and
    training_options: ClassVar[str] = ""  # those that only matter when Darknet trains: kept for its files, and
    neutral_options: ClassVar[Mapping[str, str]] = {}  # those that would change what is computed at another value
    from_zero: ClassVar[tuple[str, ...]] = ()  # options that are whole numbers from 0 on; others are from 1 on
    unless_said: ClassVar[Mapping[str, Any]] = {"name": None}  # options that model.json has where they differ from this

    def __init_subclass__(cls) -> None:
        """Raises TypeError for a value in the place of a method, such as `channels = "passed"`."""
        for name in {**vars(cls), **vars(cls).get("__annotations__", {})}:
            replaced, is_method = getattr(Layer, name, None), hasattr(type(vars(cls).get(name)), "__get__")
            if callable(replaced) and not (is_method or name.startswith("_")):
                raise TypeError(f"{cls.__name__}.{name} is no method; expected one, as Layer.{name} is")

    @property
    def refers_to(self) -> tuple[int, ...]:
        """The layers before it that its options name."""
        return ()

    def referring_to(self, numbers: Sequence[int]) -> Self:
        """The same layer where those that it `refers_to` have these numbers."""
        if self.refers_to:
            raise NotImplementedError(f"{type(self).__name__} refers to layers, but cannot be given other numbers")
        return self

    def inputs(self, index: int) -> tuple[int, ...]:
        """The layers whose maps it takes where it is layer `index`; -1 is the images."""
        return (index - 1, *self.refers_to) if self.takes_before else self.refers_to

    @abstractmethod
    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        """The map that it gives. Raises InputError for maps that it cannot take, without the layer's number."""

    def module(self, taken: Sequence[FeatureMap]) -> "nn.Module":
        """What computes it: takes as many tensors (N, channels, height, width) as there are maps, gives one.

        Layers that pass on are never computed.
        """
        from torch import nn

        return nn.Identity()

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "fixed"

    def parameters(self, taken: Sequence[FeatureMap]) -> int:
        """Weights, biases, and BatchNorm's scale and shift: as many as its module has."""
        import torch

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.module(taken).parameters())

    def macs(self, taken: Sequence[FeatureMap], given: FeatureMap) -> int:
        """Multiply-accumulates with weights, for one image; additions, activations and BatchNorm are not counted."""
        return 0

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        """Adds what computes it to an ONNX graph; gives its output. A float network is written without it, too, slowly.

        taken: names of the maps that it takes. name: of its output. Layers that pass on are not written.
        Raises InputError, without the layer's number, where it cannot be written.
        """
        raise InputError(f"{type(self).__name__} is not written into the ONNX graph of an int8 model")

    def as_dict(self) -> dict[str, Any]:
        """The options as plain data for JSON; `from_dict` is its inverse."""
        options = asdict(self)
        for option, usual in self.unless_said.items():
            if options[option] == usual:
                del options[option]
        return options

    @classmethod
    def from_dict(cls, where: str, data: dict[str, Any]) -> Self:
        """data: the options. Raises InputError, beginning with `where`, for what no such layer has."""
        required = [option.name for option in fields(cls) if option.name not in cls.unless_said]
        check_keys(where, data, required, list(cls.unless_said))
        name = data.get("name")
        if not (name is None or (isinstance(name, str) and name)):
            raise InputError(f"{where}: name: expected a text, got {shortened(name)}")
        checked = {}
        for option, value in data.items():
            if option != "name":
                try:
                    checked[option] = cls.checked(option, value)
                except InputError as error:
                    raise InputError(f"{where}: {option}: {error}") from error
        return cls(**checked, name=name)

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        """What a file gives as `option`, as the layer takes it.

        By the field's type: true or false, one of a Literal's words, or a whole number (see `from_zero`); whoever has
        others overrides it. Raises InputError that says what was expected.
        """
        kind = _types(cls)[option]
        if kind is bool:
            fine, expected = isinstance(value, bool), "true or false"
        elif get_origin(kind) is Literal:
            fine, expected = value in get_args(kind), f"one of {', '.join(map(str, get_args(kind)))}"
        else:
            least = 0 if option in cls.from_zero else 1
            fine = type(value) is int and least <= value <= LARGEST_COUNT
            expected = f"a whole number from {least} to {LARGEST_COUNT}"
        if not fine:
            raise InputError(f"expected {expected}, got {shortened(value)}")
        return value

    @classmethod
    def from_section(cls, section: "Section", index: int) -> Self:
        """The layer that Darknet's section describes as layer `index`. Raises InputError, with the line."""
        raise NotImplementedError(f"{cls.__name__} has a section, but does not read it")

    def to_section(self, index: int, layers: Sequence["Layer"], classes: int) -> dict[str, object]:
        """The options of its section in Darknet's file. index: its number among `layers`.

        Raises InputError, without the layer's number, for what Darknet does not have.
        """
        raise NotImplementedError(f"{type(self).__name__} has a section, but does not write it")

    def weights_in_order(self) -> tuple[str, ...]:
        """Names of its module's tensors in the order of Darknet's weights file."""
        return ()


@dataclass(frozen=True)
class Counted(Layer):
    """Passes on what it takes; it is there so that the layers after it have Darknet's numbers."""

    passes_on: ClassVar[bool] = True

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return before

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"


@cache
def _types(kind: type[Layer]) -> dict[str, Any]:
    return get_type_hints(kind)
