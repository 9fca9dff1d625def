"""On a real Ray cluster of two nodes, whose stages meet on a real S3 server, a study gives what a local run gives."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from small_study import Told

from detpress.errors import InputError
from detpress.run.chain import run_chain
from detpress.run.initial_model import open_recipe_data
from detpress.run.shared_store import SharedStore
from detpress.run.stage import Stage
from detpress.run.store import Store, open_store
from detpress.study.definition import read_study
from detpress.study.events import EventListener
from detpress.study.on_ray import run_study_on_ray
from detpress.study.running import Outcome, open_study_data, plan_study

STUDY = """\
name: three
shared:
  data: {{root: {data}}}
  model: {{weights: "builtin:digits"}}
  measure: {{runtimes: [], memory: false}}
recipes:
  - {{name: pruned, chain: [nni.l1norm: {{sparsity: 0.2}}, nni.speedup]}}
  - {{name: broken, chain: [inc.static_int8: {{calibration_images: 1000}}]}}
  - {{name: trained, chain: [train.finetune: {{epochs: 4, learning_rate: 0.0001}}]}}
"""


class Nodes:
    """A cluster that is made node by node, each with a cache of its own, as machines have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster()
        self.nodes: list[Any] = []

    def add(self, cpus: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DETPRESS_CACHE", str(self.folder / f"node{len(self.nodes)}"))
            patch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside another test nothing would be left to it
            self.nodes.append(self.cluster.add_node(num_cpus=cpus, object_store_memory=80_000_000))

    def kill(self, node: int) -> None:
        self.cluster.remove_node(self.nodes[node], allow_graceful=False)

    def made_by(self, node: int) -> set[str]:
        """Keys of the stages in the node's own cache."""
        return {path.name for path in (self.folder / f"node{node}/store/stages").glob("*/[!.]*")}

    def working(self, node: int) -> bool:
        """Whether a training goes on there."""
        return any((self.folder / f"node{node}/store/scratch").glob("*/fit-0"))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    ray.shutdown()
    found.cluster.shutdown()


def run_on(nodes: Nodes, study_file: Path, told: Told, store: Store) -> dict[str, Outcome]:
    study = read_study(study_file)
    plan = plan_study(study, store, open_study_data(study))
    found = run_study_on_ray(plan, store, nodes.folder / "run", told, nodes.cluster.address)
    return {outcome.job.variant: outcome for outcome in found}


def weights(stage: Stage) -> str:
    return hashlib.sha256((stage.bundle / "weights.safetensors").read_bytes()).hexdigest()


def test_a_cluster_gives_what_a_run_here_gives_bit_for_bit_though_a_node_dies_during_a_training(
    s3: str, nodes: Nodes, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "three.yaml"
    path.write_text(STUDY.format(data=study_file.parent / "digits"))
    monkeypatch.setenv("DETPRESS_STORE", f"{s3}/ray")
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "driver"))
    nodes.add(cpus=0)  # the cluster's head, which outlives the others
    for _ in range(2):
        nodes.add(cpus=1)
    (tmp_path / "work").mkdir()
    for module in ("nni", "pytorch_lightning"):  # which workers import when a stage asks for them
        (tmp_path / f"work/{module}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path / "work")
    killed: list[int] = []

    def kill_the_one_that_trains() -> None:
        while not killed:
            time.sleep(0.05)
            for node in (1, 2):
                if nodes.working(node):
                    nodes.kill(node)
                    killed.append(node)

    threading.Thread(target=kill_the_one_that_trains, daemon=True).start()
    on_ray = run_on(nodes, path, Told(), open_store())
    assert killed, "a training was killed"
    assert on_ray["trained"].stages[-1].key in nodes.made_by(3 - killed[0])
    assert on_ray["broken"].failure is not None
    assert "1000 calibration images asked for" in on_ray["broken"].failure
    assert not (tmp_path / "executed").exists(), "a worker has imported a module of the working directory"
    assert "1000 calibration images asked for" in on_ray["broken"].log.read_text()
    assert len(nodes.made_by(1) | nodes.made_by(2)) == 4, "model, l1norm, speedup, finetune"
    monkeypatch.delenv("DETPRESS_STORE")
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "local"))
    here = {job.variant: job.recipe for job in read_study(path).jobs}
    for name in ("pruned", "trained"):
        assert on_ray[name].failure is None
        *_, last = run_chain(here[name], open_recipe_data(here[name]), open_store(), EventListener(lambda event: None))
        assert weights(on_ray[name].stages[-1]) == weights(last)
        assert on_ray[name].stages[-1].metrics["map"] == last.metrics["map"]


def test_no_cluster_at_the_address_is_one_line(tmp_path: Path, study_file: Path) -> None:
    store = Store(tmp_path / "store", SharedStore(f"file://{tmp_path}/shared"))
    study = read_study(study_file)
    plan = plan_study(study, store, open_study_data(study))
    with pytest.raises(InputError, match=r"--ray 127\.0\.0\.1:1: no cluster there"):
        list(run_study_on_ray(plan, store, tmp_path / "run", Told(), "127.0.0.1:1"))
