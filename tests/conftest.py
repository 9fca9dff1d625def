"""Small detectors that several tests share; a test that changes one takes a copy."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
import pytest
import torch
from distribution import Install, forget_what_is_installed, write_distribution
from moto.server import ThreadedMotoServer
from seen_images import let_see
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.measure import latency

FIRST = ("study", "commands", "core", "plugins", "adapters")  # folders of files that take long: none begins last
ONE_STUDY = ("test_comparison.py", "test_report.py", "test_running.py")  # all read what is run once


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What begins first, and what runs in one worker: the tests of a file, for the fixtures that they share."""
    items.sort(key=lambda item: FIRST.index(item.path.parent.name) if item.path.parent.name in FIRST else len(FIRST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("study" if item.path.name in ONE_STUDY else item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def matplotlib_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow brings matplotlib, and Lightning imports it where it is there: its font cache is no engine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture(scope="session", autouse=True)
def latencies_at_a_glance() -> Iterator[None]:
    """No test asserts how fast anything is: ten runs of a network do, where a recipe's take two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on a real S3 server of this machine; what boto3 and s3fs need to reach it is in the environment.

    One for all tests: fsspec keeps its connections for as long as the process lives.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="detpress")
        yield "s3://detpress"
    server.stop()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution for as long as the test runs, for the processes that it starts, too."""
    modules: set[str] = set()

    def install_it(name: str, version: str, sources: Mapping[str, str], entry_points: str) -> Path:
        folder = write_distribution(tmp_path / "strangers", name, version, sources, entry_points)
        modules.update(file.partition("/")[0].removesuffix(".py") for file in sources)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        forget_what_is_installed()
        return folder

    yield install_it
    forget_what_is_installed()
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def exact_int8() -> None:
    """Skips on a CPU whose kernels for bytes add products in 16 bits, which overflow, since it has no better ones."""
    description = Path("/proc/cpuinfo")
    flags = set(description.read_text(encoding="utf-8").split()) if description.is_file() else {"avx512_vnni"}
    if flags.isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}):
        pytest.skip("this CPU has no VNNI, AMX or dot product: runtimes' int8 convolutions saturate on it")


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Noise over shades of grey: float32 (20, 3, 64, 64) in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.rand(20, 3, 1, 1, generator=generator)
    return (shades + 0.4 * torch.rand(20, 3, 64, 64, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="session")
def dense_model(images: Tensor) -> Model:
    """A YOLOv3 with random weights whose BatchNorms have seen images, as trained ones have."""
    model = new_model(build_architecture("yolov3", ["cat", "dog"], 64, width=0.0625), seed=0)
    let_see(model.network, images)
    model.network.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def tiny(images: Tensor) -> Model:
    """A tiny YOLOv3 like `dense_model`, which can be trained."""
    model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    let_see(model.network, images)
    return model


@pytest.fixture(scope="session")
def int8_model(dense_model: Model, images: Tensor) -> Model:
    """`dense_model`, quantized by the real Intel Neural Compressor."""
    from detpress.adapters.inc import Scheme, quantize_static

    log = logging.getLogger("tests.inc")
    network = quantize_static(dense_model.network, dense_model.architecture, images, Scheme(), (), log)
    return dense_model.with_network(network, Form.INT8)
