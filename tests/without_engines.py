"""Bundles in a process where no engine can be imported."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from detpress.detector.model import Model
from detpress.encodings.bundle import save_bundle

REBUILD = """
import sys
for engine in ("nni", "neural_compressor", "torchao"):
    sys.modules[engine] = None  # importing it raises ImportError
from pathlib import Path
import torch
from detpress.encodings.bundle import load_bundle
torch.set_num_threads(int(sys.argv[2]))
folder = Path(sys.argv[1])
with torch.inference_mode():
    torch.save(load_bundle(folder / "bundle").network(torch.load(folder / "images.pt")), folder / "maps.pt")
"""


def rebuilt_maps(model: Model, images: Tensor, folder: Path) -> list[Tensor]:
    """The raw maps of the model's bundle, which is written below `folder`, computed in such a process."""
    save_bundle(model, folder / "bundle")
    torch.save(images, folder / "images.pt")
    subprocess.run([sys.executable, "-c", REBUILD, str(folder), str(torch.get_num_threads())], check=True)
    maps: list[Tensor] = torch.load(folder / "maps.pt")
    return maps
