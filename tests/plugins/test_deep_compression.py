"""`deep_compression`: what sharing keeps of a pruned model, and that another process reads the same bits."""

import csv
import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_training import few_digits, small_bench
from torch import nn

from detpress.detector.architecture import build_architecture
from detpress.detector.folding import stored_weight
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network, convolution_of
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.huffman import Huffman
from detpress.encodings.shared import Shared
from detpress.errors import InputError
from detpress.measure.size import storage_bytes
from detpress.options import NoOptions
from detpress.plugins.deep_compression import Encode, EncodeOptions, Share, ShareOptions
from detpress.plugins.inc import StaticInt8, StaticInt8Options
from detpress.plugins.prune import Magnitude, Pruning
from detpress.plugins.rewrite import RewriteFloat
from detpress.runtimes.export import write_onnx
from detpress.runtimes.opening import open_runtime
from detpress.training.config import TrainingOptions
from detpress.voc.devkit import Devkit

OPTIONS = ShareOptions(bits=3, pointwise_bits=2, head_bits=4, epochs=1, training=TrainingOptions(batch_size=4))


@dataclass(frozen=True)
class Chain:
    """pruned, shared and encoded model, and what encoding kept."""

    devkit: Devkit
    pruned: Model
    shared: Model
    encoded: Model
    figures: dict[str, float]
    table: list[dict[str, str]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("coding")
    devkit = few_digits(folder, 8)
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed=0)
    pruned = Magnitude().apply(model, Pruning(sparsity=0.8), small_bench(devkit, model, folder / "prune"))
    shared = Share().apply(pruned, OPTIONS, small_bench(devkit, model, folder / "share"))
    bench = small_bench(devkit, model, folder / "encode")
    bench.files = folder / "files"
    encoded = Encode().apply(shared, EncodeOptions(), bench)
    table = list(csv.DictReader((folder / "files/bytes.csv").open()))
    return Chain(devkit, pruned, shared, encoded, bench.figures, table)


def weights_of(model: Model) -> dict[int, torch.Tensor]:
    assert isinstance(model.network, Network)
    return {i: stored_weight(model.network, i) for i in model.encodings}


def test_masked_weights_stay_zero_and_the_others_share_as_many_values_as_their_kind_of_layer_has(chain: Chain) -> None:
    assert chain.shared.form is Form.PACKED
    most = dict.fromkeys(chain.pruned.encodings, 8) | dict.fromkeys(chain.pruned.architecture.heads, 16)
    pointwise = [i for i in chain.pruned.encodings if chain.pruned.architecture.layers[i].size == 1]
    most |= {i: 4 for i in pointwise if i not in chain.pruned.architecture.heads}
    for i, weight in weights_of(chain.shared).items():
        tensors = convolution_of(chain.shared.network, i).state_dict()
        encoding = chain.shared.encodings[i]
        mask = chain.pruned.masks.get(f"layers.{i}.convolution.weight")
        assert isinstance(encoding, Shared)
        assert encoding.sparse == (mask is not None)
        assert 1 < encoding.symbols <= most[i]
        if mask is not None:
            assert torch.equal(weight != 0, mask)
            assert torch.equal(tensors["codes"] > 0, mask)


def test_only_the_values_learn_and_the_model_before_stays(chain: Chain, tmp_path: Path) -> None:
    untrained = Share().apply(
        chain.pruned,
        OPTIONS.model_copy(update={"epochs": 0}),
        small_bench(chain.devkit, chain.pruned, tmp_path / "untrained"),
    )
    for i in untrained.encodings:
        before, after = (convolution_of(model.network, i).state_dict() for model in (untrained, chain.shared))
        assert torch.equal(before["codes"], after["codes"])
        assert not torch.equal(before["codebook"], after["codebook"])
    assert isinstance(chain.pruned.network.get_parameter("layers.0.convolution.weight"), nn.Parameter)


READ = """
import hashlib, sys
from pathlib import Path
from detpress.detector.folding import stored_weight
from detpress.encodings.bundle import load_bundle

network = load_bundle(Path(sys.argv[1])).network
for i in network.encodings:
    print(i, hashlib.sha256(stored_weight(network, i).contiguous().numpy().tobytes()).hexdigest())
"""


def test_the_file_is_smaller_and_another_process_reads_the_same_bits(chain: Chain, tmp_path: Path) -> None:
    save_bundle(chain.encoded, tmp_path / "encoded")
    save_bundle(chain.shared, tmp_path / "shared")
    read = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "encoded")], capture_output=True, text=True, check=True
    )
    digests = {
        i: hashlib.sha256(weight.numpy().tobytes()).hexdigest() for i, weight in weights_of(chain.shared).items()
    }
    assert read.stdout.split() == [word for i, digest in digests.items() for word in (str(i), digest)]
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("shared", "encoded")]
    assert sizes[1] < sizes[0] / 2
    assert storage_bytes(chain.encoded)["packed"] < storage_bytes(chain.shared)["packed"]

    damaged = bytearray((tmp_path / "encoded/weights.safetensors").read_bytes())
    place = int.from_bytes(damaged[:8], "little") + 8
    damaged[place : place + 4000] = bytes(4000)
    (tmp_path / "encoded/weights.safetensors").write_bytes(damaged)
    sums = [
        f"{hashlib.sha256((tmp_path / 'encoded' / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("model.json", "weights.safetensors")
    ]
    (tmp_path / "encoded/SHA256SUMS").write_text("".join(sums))
    with pytest.raises(InputError, match=r"weights\.safetensors: .*stream"):
        load_bundle(tmp_path / "encoded")


def test_the_figures_are_the_bytes_of_the_parts(chain: Chain) -> None:
    parts = [chain.figures[f"{part}_bytes"] for part in ("codebook", "scale", "code", "index", "table")]
    assert sum(parts) == storage_bytes(chain.encoded)["packed"]
    coded = chain.figures["code_bytes"] + chain.figures["index_bytes"]
    assert chain.figures["entropy_bytes"] <= coded < chain.figures["fixed_bytes"]
    assert [int(row["layer"]) for row in chain.table] == list(chain.encoded.encodings)
    assert sum(float(row["code bytes"]) for row in chain.table) == chain.figures["code_bytes"]
    huffman = chain.encoded.encodings[0]
    assert isinstance(huffman, Huffman)
    assert huffman.stored_bits == chain.shared.encodings[0].stored_bits


def test_it_is_exported_as_the_float_network_that_it_computes(chain: Chain, tmp_path: Path) -> None:
    difference = write_onnx(chain.encoded, tmp_path / "encoded.onnx")
    assert difference.largest <= 1e-5 * difference.size
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = chain.encoded.network(image)
        for one, other in zip(maps, open_runtime("openvino", chain.encoded, 1, 1).run(image), strict=True):
            assert float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())


def test_plans_have_the_layers_and_the_form(chain: Chain) -> None:
    plan = Share().plan(chain.pruned, OPTIONS.model_copy(update={"exclude": ["layers.0"]}))
    assert plan.model.form is Form.PACKED
    assert len(plan.layers) == len(chain.pruned.encodings) - 1
    assert Encode().plan(plan.model, EncodeOptions()).layers == plan.layers
    kept = sum(int((weight != 0).sum()) for i, weight in weights_of(plan.model).items() if i)
    assert kept == sum(int((weight != 0).sum()) for i, weight in weights_of(chain.shared).items() if i)


def test_what_does_not_fit_is_refused_before(chain: Chain) -> None:
    with pytest.raises(InputError, match=r"^exclude: 'layers.99' matches no layer"):
        Share().plan(chain.pruned, OPTIONS.model_copy(update={"exclude": ["layers.99"]}))
    with pytest.raises(InputError, match=r"^exclude: all convolutions"):
        Share().plan(chain.pruned, OPTIONS.model_copy(update={"exclude": ["*"]}))
    with pytest.raises(InputError, match=r"not coded yet; expected `deep_compression.share` before"):
        Encode().plan(chain.encoded, EncodeOptions())


def test_who_receives_the_file_decodes_it_and_brings_it_to_int8(chain: Chain, tmp_path: Path) -> None:
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    bench = small_bench(chain.devkit, chain.encoded, tmp_path)
    decoded = RewriteFloat().apply(chain.encoded, NoOptions(), bench)
    assert decoded.form is Form.DENSE
    assert sum(int(weight.count_nonzero()) for weight in weights_of(decoded).values()) == sum(
        int(weight.count_nonzero()) for weight in weights_of(chain.shared).values()
    )
    with torch.inference_mode():
        for found, expected in zip(decoded.network(images), chain.shared.network(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert StaticInt8().apply(decoded, StaticInt8Options(calibration_images=4), bench).form is Form.INT8
