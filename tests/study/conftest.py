"""A study of four recipes on a dozen generated images, really run: one recipe fails and one is killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_study import Finished, run

from detpress.voc.digits import write_digits

STUDY = """\
name: four
seeds: [0]
shared:
  data: {{root: {data}}}
  model: {{weights: "builtin:digits"}}
  measure: {{runtimes: [torch], memory: false}}
baseline: whole
recipes:
  - {{name: pruned, chain: [nni.l1norm: {{sparsity: 0.2}}, nni.speedup]}}
  - {{name: whole, chain: []}}  # the first stage of the other: no process is started for it
  - {{name: broken, chain: [inc.static_int8: {{calibration_images: 1000}}]}}
  - {{name: trained, chain: [train.finetune: {{epochs: 2, learning_rate: 0.0001}}]}}
"""


@contextmanager
def cache_at(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETPRESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_digits(folder / "digits", {"train": 16, "val": 4, "test": 12})
    path = folder / "four.yaml"
    path.write_text(STUDY.format(data="digits"))
    return path


@pytest.fixture(scope="session")
def killed(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study run once, its training killed."""
    with cache_at(tmp_path_factory.mktemp("cache")) as cache:
        return run(study_file, cache, study_file.parent / "runs", kill_at="train.finetune")


@pytest.fixture(scope="session")
def finished(killed: Finished, study_file: Path) -> Finished:
    """The same study run again in the same place."""
    with cache_at(killed.store.root.parent) as cache:
        return run(study_file, cache, killed.folder)
