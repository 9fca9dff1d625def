"""A pruner of another package, in one file and one entry point: the manual's."""

import re
from pathlib import Path

import torch
from command_line import Command
from distribution import Install

from detpress.encodings.bundle import load_bundle

MANUAL = Path(__file__).parents[2] / "docs/plugins.md"


def test_it_takes_out_the_smallest_filters_of_each_layer_and_what_reads_them(
    install: Install, detpress: Command, bundle: Path, workplace: Path
) -> None:
    found = re.search(r"```python\n(# my_package/smallest\.py\n.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    install(
        "stranger",
        "1.2",
        {"stranger_smallest.py": found[1]},
        "[detpress.plugins]\nmine.smallest = stranger_smallest:Smallest\n",
    )
    (workplace / "given").symlink_to(bundle)
    settings = ("model={weights: given}", "chain=[{mine.smallest: {sparsity: 0.25}}]", "measure.runtimes=[]")
    said = detpress("run", "small.yaml", *(part for each in settings for part in ("--set", each)), "--out", "out")
    assert said.code == 0, said.err
    before, after = (load_bundle(Path(f"out/{stage}/bundle")) for stage in ("0-model", "1-mine.smallest"))
    assert after.form == "dense"
    kept = torch.arange(3)  # the picture's channels
    for layer in (0, 2, 4):  # with a pooling in between
        weights, left = (model.network.get_parameter(f"layers.{layer}.convolution.weight") for model in (before, after))
        order = weights.abs().sum(dim=(1, 2, 3)).argsort()
        before_it, kept = kept, order[len(order) // 4 :].sort().values
        assert torch.equal(left, weights[kept][:, before_it])
    heads = [after.network.get_parameter(f"layers.{head}.convolution.weight") for head in after.architecture.heads]
    assert [len(head) for head in heads] == [45, 45], "three anchors of ten classes each"
