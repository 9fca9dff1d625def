"""A small data set, a recipe, and a working directory with both."""

from pathlib import Path

import pytest
from command_line import Command, run_command

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.encodings.bundle import save_bundle
from detpress.voc.digits import CLASSES, write_digits

RECIPE = """\
name: small
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.125, image_size: 64}
chain:
  - train.scratch: {epochs: 2, batch_size: 4}
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup
  - train.finetune: {epochs: 2, batch_size: 4}
  - inc.static_int8: {calibration_images: 4}
measure: {runtimes: [torch], threads: 1, memory: false}
"""


@pytest.fixture
def detpress(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `detpress ARGUMENTS`."""

    return lambda *arguments: run_command(arguments, capfd)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A devkit of a few scenes with digits; a test that changes it takes a copy."""
    root = tmp_path_factory.mktemp("data") / "digits"
    write_digits(root, {"train": 8, "val": 2, "test": 4})
    return root


@pytest.fixture(scope="session")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where is kept what is known of the packages of others: the same ones are examined once for all tests."""
    return tmp_path_factory.mktemp("examined")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, examined: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/examined").symlink_to(examined)
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def workplace(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: `small.yaml` and the data set that it names."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "digits").symlink_to(digits)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of digits that was never trained; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0), folder)
    return folder
