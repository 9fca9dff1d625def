"""What INC leaves behind: nothing, in a process that imports it for the first time."""

import os
import subprocess
import sys
from pathlib import Path

# Every adapter of INC on a small network; GPTQ last, whose import makes INC's workspace.
EVERY_ADAPTER = """
import logging
import torch
from detpress.adapters.inc import Scheme, quantize_static
from detpress.adapters.inc_autotune import Candidate, Criterion, Trial, tune
from detpress.adapters.inc_dynamic import quantize_dynamic
from detpress.adapters.inc_half import to_half_precision
from detpress.adapters.inc_qat import fake_quantized
from detpress.adapters.inc_weight_only import pack_weights
from detpress.detector.architecture import build_architecture
from detpress.encodings.packed import Packed
from detpress.detector.model import new_model

log = logging.Logger("stage")
log.addHandler(logging.NullHandler())
model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
network, architecture = model.network.eval(), model.architecture
images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
quantize_static(network, architecture, images, Scheme("kl"), (), log)
quantize_dynamic(network, architecture, images, True, (), log)
to_half_precision(network, "bf16", (), images, log)
fake_quantized(network, (), False, log)
tune(network, images, [Candidate(Scheme(), ())], Criterion(1.0, 0.1, 1, None), lambda c, *_: Trial(c, 1.0, 0.0), log)
for algorithm in ("rtn", "hqq", "gptq"):
    pack_weights(network, Packed(4, 32, False), [2], algorithm, False, images, log, lambda *_: None)
"""


def test_no_adapter_leaves_a_file_in_the_working_directory_at_home_or_among_temporary_files(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    places = {"HOME": str(here), "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run(
        [sys.executable, "-c", EVERY_ADAPTER], cwd=here, env=os.environ | places, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []
