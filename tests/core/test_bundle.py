"""A bundle is a model as plain data: the same bytes for the same model, and an altered byte is noticed."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, apply_masks, new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError

FILES = ("model.json", "weights.safetensors", "SHA256SUMS")


def small_model(seed: int = 0) -> Model:
    return new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.0625), seed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(small_model(), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_loaded_model_gives_the_same_maps_bit_for_bit(saved: Path) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in zip(small_model().network(image), load_bundle(saved).network(image), strict=True):
            assert torch.equal(one, other)


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_bundle(load_bundle(saved), tmp_path / "again")
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_masks_form_and_history_come_back(tmp_path: Path) -> None:
    model = small_model()
    name = "layers.0.convolution.weight"
    mask = torch.ones_like(dict(model.network.named_parameters())[name], dtype=torch.bool)
    mask[0] = False
    apply_masks(model.network, {name: mask})
    model = replace(model, masks={name: mask}, history=({"plugin": "by hand"},))
    save_bundle(model, tmp_path / "masked")
    back = load_bundle(tmp_path / "masked")
    assert (back.form, back.history) == (Form.MASKED, ({"plugin": "by hand"},))
    assert torch.equal(back.masks[name], mask)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_one_altered_byte_anywhere_is_refused(saved: Path, name: str, share: float) -> None:
    content = bytearray((saved / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match="altered") as error:
        load_bundle(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"not a bundle: {name}"):
        load_bundle(saved)


def resigned(bundle: Path, description: dict) -> Path:
    """The bundle with another description and digests that fit: a forged one, not a damaged one."""
    (bundle / "model.json").write_text(json.dumps(description))
    sums = [
        f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("model.json", "weights.safetensors")
    ]
    (bundle / "SHA256SUMS").write_text("".join(sums))
    return bundle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["architecture"]["layers"][0].update(filters=10**9),
            "layer 0: filters: expected a whole number",
        ),
        (lambda d: d["architecture"]["layers"][0].update(type="exec"), "unknown layer 'exec'"),
        (lambda d: d["architecture"]["layers"][0].update(filters=-1), "layer 0: filters"),
        (lambda d: d["architecture"]["layers"][0].update(filters="text"), "layer 0: filters"),
        (lambda d: d["architecture"]["layers"][0].update(filters=10**12), "layer 0: filters"),
        (lambda d: d["architecture"]["layers"][0].update(filters=16.0), "layer 0: filters"),
        (lambda d: d["architecture"]["layers"][0].update(size=float("inf")), "layer 0: size"),
        (lambda d: d["architecture"]["layers"][0].update(stride=0), "layer 0: stride"),
        (lambda d: d["architecture"]["layers"][0].update(groups=2), "layer 0: 2 groups do not divide 3 channels"),
        (lambda d: d["architecture"]["layers"][0].update(batch_normalize="yes"), "layer 0: batch_normalize"),
        (lambda d: d["architecture"]["layers"][0].update(activation=[]), "layer 0: activation"),
        (
            lambda d: d["architecture"]["layers"][-1].update(anchors=[[float("nan"), 1.0]] * 3),
            "expected pairs",
        ),
        (lambda d: d["architecture"].update(classes=["cat", "cat"]), "classes: 'cat' is named twice"),
        (lambda d: d["architecture"].update(classes=[1, 2]), "classes: expected at least one name"),
        (lambda d: d["architecture"].update(classes=[]), "classes: expected at least one name"),
        (lambda d: d["architecture"].update(resize="crop"), "resize: expected one of letterbox, stretch"),
        (lambda d: d["architecture"].update(image_size="64"), "image_size: expected a whole number"),
        (lambda d: d["architecture"].update(image_size=float("inf")), "image_size: expected a whole number"),
        (lambda d: d["architecture"].update(layers=5), "layers: expected a list"),
        (lambda d: d["architecture"].update(layers=[]), "no yolo layer"),
        (lambda d: d["architecture"].update(image_size=33), "multiple of 32"),
        (lambda d: d.update(form="liquid"), "form: expected one of dense, .*, got 'liquid'"),
        (lambda d: d.update(history=["import"]), "history: expected a list of records"),
        (lambda d: d.update(quantisation={}), "unknown key 'quantisation'; did you mean 'quantization'"),
        (lambda d: d.update(format=99), "bundle format 99"),
        (lambda d: d.pop("architecture"), "architecture is missing"),
    ],
)
def test_a_description_of_another_network_is_refused(saved: Path, change, message: str) -> None:
    description = json.loads((saved / "model.json").read_text())
    change(description)
    with pytest.raises(InputError, match=message):
        load_bundle(resigned(saved, description))


def test_the_package_of_what_is_installed_decides_nothing(saved: Path) -> None:
    """It says what to install where a name is not known, and is no part of the layer."""
    before = load_bundle(saved).architecture
    description = json.loads((saved / "model.json").read_text())
    description["architecture"]["layers"][0]["package"] = "elsewhere 9"
    assert load_bundle(resigned(saved, description)).architecture == before


def test_weights_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    other = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), 0)
    save_bundle(other, tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "weights.safetensors", saved / "weights.safetensors")
    description = json.loads((saved / "model.json").read_text())
    with pytest.raises(InputError, match="the network takes"):
        load_bundle(resigned(saved, description))


def test_a_description_that_nests_without_end_is_refused(saved: Path) -> None:
    bundle = resigned(saved, {})
    content = "[" * 100_000 + "]" * 100_000
    (bundle / "model.json").write_text(content)
    sums = (bundle / "SHA256SUMS").read_text().splitlines()
    sums[0] = f"{hashlib.sha256(content.encode()).hexdigest()}  model.json"
    (bundle / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    with pytest.raises(InputError, match=r"model\.json: not what detpress writes: nested too deep"):
        load_bundle(bundle)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), 0)
    with torch.no_grad():
        model.network.get_parameter("layers.2.convolution.weight")[0, 0, 0, 0] = float("nan")
    save_bundle(model, tmp_path / "diverged")
    with pytest.raises(InputError, match=r"layers\.2\.convolution\.weight has a number that is not finite"):
        load_bundle(tmp_path / "diverged")
