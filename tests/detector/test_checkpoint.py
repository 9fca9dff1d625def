"""State dicts as other programs' YOLOv3 has them, made of an imported Darknet network: the same maps, or why not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from detpress.detector.architecture import build_architecture
from detpress.detector.checkpoint import import_checkpoint
from detpress.detector.darknet import read_model, write_model
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.errors import InputError

CLASSES = ["one", "two"]
State = dict[str, Tensor]
ADDED = {"archive": 1e-4, "v9": 1e-3}  # to variances, by program; others add 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.cfg and tiny.weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    network = new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0).network
    assert isinstance(network, Network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    write_model(network, folder / "tiny.cfg", folder / "tiny.weights")
    return folder


@pytest.fixture(scope="module")
def imported(folder: Path) -> Model:
    return read_model(folder / "tiny.cfg", folder / "tiny.weights", CLASSES)


def state_as(program: str, model: Model) -> State:
    """The state dict of the same network in another program."""
    names = {
        "eriklindernoren": lambda i: (f"module_list.{i}.conv_{i}", f"module_list.{i}.batch_norm_{i}"),
        "archive": lambda i: (f"module_list.{i}.Conv2d", f"module_list.{i}.BatchNorm2d"),
        "v9": lambda i: (f"model.{i}.conv", f"model.{i}.bn"),
    }[program]
    heads = model.architecture.heads
    order = list(range(len(model.architecture.layers)))
    if program == "v9":  # the heads of the finer map come first
        order = [i for i in order if i not in heads] + list(reversed(heads))
    own, state = model.network.state_dict(), {}
    for place, i in enumerate(order):
        convolution, norm = names(i)
        if program == "v9" and i in heads:
            convolution = f"model.28.m.{place - len(order) + len(heads)}"
        for part, tensor in own.items():
            if part.startswith(f"layers.{i}."):
                kind, _, last = part.removeprefix(f"layers.{i}.").partition(".")
                moved = ADDED.get(program, 1e-5) - 1e-5 if last == "running_var" else 0
                state[f"{convolution if kind == 'convolution' else norm}.{last}"] = tensor - moved if moved else tensor
    state["module_list.16.yolo_16.anchors"] = torch.ones(3, 2)
    return state


def maps(model: Model) -> tuple[Tensor, ...]:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found: tuple[Tensor, ...] = model.network.eval()(image)
    return found


@pytest.mark.parametrize("nested", [None, "model", "state_dict", "model_state_dict", "ema"])
def test_a_state_dict_of_a_darknet_network_gives_its_maps_bit_for_bit(
    tmp_path: Path, folder: Path, imported: Model, nested: str | None
) -> None:
    state = state_as("eriklindernoren", imported)
    torch.save(state if nested is None else {"epoch": 3, nested: state}, tmp_path / "plain.pth")
    found = import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "plain.pth", CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(maps(found), maps(imported), strict=True))
    assert found.architecture == imported.architecture
    place = f"state dict '{nested}'" if nested else "state dict"
    assert f"{place}: 13 convolutions matched by order and shape" in found.notes


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("program", ["eriklindernoren", "archive", "v9"])
def test_the_order_and_the_epsilon_of_each_program_are_known(
    tmp_path: Path, folder: Path, imported: Model, program: str, suffix: str, wrapped: bool
) -> None:
    state = {f"module.{name}" if wrapped else name: part for name, part in state_as(program, imported).items()}
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = import_checkpoint(str(folder / "tiny.cfg"), path, CLASSES)
    for ours, theirs in zip(maps(found), maps(imported), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    notes = " ".join(found.notes)
    assert ("those of the heads at the end" in notes) == (program == "v9")
    assert (f"adds {ADDED.get(program, 0):g} to variances" in notes) == (program in ADDED)


def test_names_in_the_order_of_the_alphabet_are_put_in_that_of_their_numbers(
    tmp_path: Path, folder: Path, imported: Model
) -> None:
    torch.save(dict(sorted(state_as("archive", imported).items())), tmp_path / "sorted.pt")
    found = import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "sorted.pt", CLASSES)
    for ours, theirs in zip(maps(found), maps(imported), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_architecture_stands_for_its_cfg_at_the_size_of_its_anchors(tmp_path: Path) -> None:
    trained = new_model(build_architecture("yolov3-tiny", CLASSES, 416), seed=1)
    torch.save(state_as("eriklindernoren", trained), tmp_path / "plain.pt")
    found = import_checkpoint("yolov3-tiny", tmp_path / "plain.pt", CLASSES)
    assert found.architecture == trained.architecture
    assert torch.equal(
        found.network.state_dict()["layers.0.norm.bias"], trained.network.state_dict()["layers.0.norm.bias"]
    )
    assert found.history == ({"plugin": "import", "config": {"network": "yolov3-tiny", "weights": "plain.pt"}},)


def test_a_bias_before_a_normalisation_moves_its_mean(tmp_path: Path, folder: Path, imported: Model) -> None:
    state: State = {}
    for name, tensor in state_as("eriklindernoren", imported).items():
        state[name] = tensor + 0.25 if name == "module_list.0.batch_norm_0.running_mean" else tensor
        if name == "module_list.0.conv_0.weight":
            state["module_list.0.conv_0.bias"] = torch.full((len(tensor),), 0.25)
    torch.save(state, tmp_path / "plain.pt")
    found = import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "plain.pt", CLASSES)
    for ours, theirs in zip(maps(found), maps(imported), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def changed(name: str, tensor: Tensor | None) -> Callable[[State], None]:
    def change(state: State) -> None:
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed("module_list.4.conv_4.weight", torch.ones(4, 2, 1, 1)),
            r"layers.4 has weights \(4, 2, 3, 3\), but module_list.4.conv_4 \(4, 2, 1, 1\); the first that does not",
        ),
        (
            changed("module_list.15.conv_15.weight", torch.ones(3 * 85, 32, 1, 1)),
            r"layers.15 has weights \(21, 32, .*, but .* \(255, 32, 1, 1\): the head of 2 classes, and of 80",
        ),
        (
            changed("module_list.15.conv_15.bias", torch.ones(9)),
            r"layers.15 has 21 filters, but module_list.15.conv_15 a tensor \(9,\) of one number a filter",
        ),
        (changed("module_list.15.conv_15.bias", None), "layers.15 has a bias, but module_list.15.conv_15 none"),
        (
            changed("module_list.22.conv_22.weight", None),
            r"module_list.22.conv_22.bias \(21,\): expected .*; module_list.22.conv_22 has no weight",
        ),
        (changed("module_list.23.conv_23.weight", torch.ones(4, 2, 1, 1)), "goes on with module_list.23.conv_23"),
        (
            changed("model.28.dfl.conv.weight", torch.ones(1, 16, 1, 1)),
            r"model.28.dfl.conv.weight: heads without anchors, as those of YOLOv3u and YOLOv8; expected a yolo layer's",
        ),
        (changed("fc.weight", torch.ones(4, 2)), r"fc.weight \(4, 2\): expected a convolution's weights"),
        (
            changed("module_list.4.batch_norm_4.running_mean", None),
            r"module_list.4.batch_norm_4.weight \(4,\): expected .*; module_list.4.batch_norm_4 has no running_mean",
        ),
        (
            changed("module_list.4.batch_norm_4.running_var", torch.full((4,), -0.5)),
            "module_list.4.batch_norm_4.running_var: expected variances, some are below 0",
        ),
        (
            changed("module_list.15.conv_15.bias", torch.full((21,), float("nan"))),
            "module_list.15.conv_15: convolution.bias is not all finite floating-point numbers",
        ),
    ],
)
def test_the_first_layer_that_does_not_fit_is_named(
    tmp_path: Path, folder: Path, imported: Model, change: Callable[[State], None], message: str
) -> None:
    state = state_as("eriklindernoren", imported)
    change(state)
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "plain.pt", CLASSES)


def test_a_normalisation_that_was_folded_and_layers_that_are_missing_are_named(
    tmp_path: Path, folder: Path, imported: Model
) -> None:
    state = state_as("eriklindernoren", imported)
    for name in [name for name in state if "batch_norm_2." in name]:
        del state[name]
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(InputError, match=r"layers.2 has batch normalisation, but module_list.2.conv_2 no batch"):
        import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "plain.pt", CLASSES)
    state = state_as("eriklindernoren", imported)
    torch.save({name: part for name, part in state.items() if "_22." not in name}, tmp_path / "plain.pt")
    with pytest.raises(InputError, match=r"ends after 12 convolutions; tiny has layers.22, too"):
        import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "plain.pt", CLASSES)


class Harmful:
    """What a file may ask for when it is unpickled as Python's own loader does."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("made-by-a-pickle",)


def test_code_in_a_file_is_not_run_but_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Harmful(), {"model": nn.Conv2d(3, 4, 1)}):
        torch.save(content, "code.pt")
        with pytest.raises(InputError, match=r"code.pt: holds objects .* expected a state dict, saved there"):
            import_checkpoint(str(folder / "tiny.cfg"), Path("code.pt"), CLASSES)
    assert not Path("made-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="cannot be read"):
        import_checkpoint(str(folder / "tiny.cfg"), path, CLASSES)
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(InputError, match="not a "):
        import_checkpoint(str(folder / "tiny.cfg"), path, CLASSES)


def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path, folder: Path) -> None:
    for content in ({"epoch": 3}, [torch.ones(1)], {}, {"model": {"epoch": 3}}):
        torch.save(content, tmp_path / "empty.pt")
        with pytest.raises(InputError, match="has no state dict"):
            import_checkpoint(str(folder / "tiny.cfg"), tmp_path / "empty.pt", CLASSES)
