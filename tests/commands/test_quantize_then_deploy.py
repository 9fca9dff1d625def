"""What is simulated is what `deploy.int8` takes, or the chain is refused before it runs."""

from pathlib import Path

import pytest
from command_line import Command

from detpress.contract.registry import list_plugins
from detpress.detector.form import Form

TRAINED = "training: {epochs: 1}"
TINY = ("--set", "model.arch=yolov3-tiny", "--set", "measure={runtimes: [], memory: false}")

# Every built-in plugin that gives a simulated model, with options that deploy.int8 does and does not take.
STEPS = [
    ("inc.dynamic_int8: {}", "ranges that are taken anew in every run have no scales to keep"),
    ("nni.ptq: {}", None),
    ("nni.ptq: {weight_bits: 4}", "simulated at 4 bits; int8 executes 8"),
    ("nni.ptq: {activation_bits: 4}", "simulated at 4 bits; int8 executes 8"),
    ("nni.ptq: {weight_scheme: affine}", "its weights have zero points; int8 executes weights symmetric about 0"),
    (f"nni.qat: {{{TRAINED}}}", None),
    (f"nni.lsq: {{{TRAINED}}}", None),
    (f"nni.lsq_plus: {{{TRAINED}}}", None),
    (f"nni.lsq_plus: {{weight_scheme: affine, {TRAINED}}}", "its weights have zero points"),
    (f"nni.dorefa: {{{TRAINED}}}", "its weights have zero points"),
    (f"nni.bnn: {{{TRAINED}}}", "simulated at 1 bits"),
    (f"binary.net: {{{TRAINED}}}", "encoded as BinaryInputs; expected codes of 8 bits"),
    (f"binary.xnor: {{{TRAINED}}}", "encoded as BinaryInputs; expected codes of 8 bits"),
]


def test_these_are_all_that_give_a_simulated_model() -> None:
    giving = {row.name for row in list_plugins() if row.status == "working" and row.returns == Form.SIMULATED}
    assert giving == {step.partition(":")[0] for step, _ in STEPS}


@pytest.mark.parametrize(("step", "refused"), STEPS)
def test_what_cannot_be_executed_in_8_bits_is_refused_by_validate(
    detpress: Command, workplace: Path, step: str, refused: str | None
) -> None:
    chain = ("--set", f"chain=[{{{step}}}, deploy.int8]")
    said = detpress("validate", "small.yaml", *chain, *TINY, "--no-data", "--json")
    if refused is None:
        assert said.code == 0, said.err
        assert [row["form"] for row in said.json] == ["dense", "simulated", "int8"]
    else:
        assert said.code == 2
        assert refused in said.err
        assert "chain[1].deploy.int8: " in said.err


def test_what_validate_has_let_through_runs(detpress: Command, workplace: Path) -> None:
    chain = ("--set", "chain=[{nni.ptq: {calibration_images: 4}}, {deploy.int8: {calibration_images: 4}}]")
    planned = detpress("validate", "small.yaml", *chain, *TINY, "--no-data", "--json").json
    ran = detpress("run", "small.yaml", *chain, *TINY, "--json")
    assert ran.code == 0, ran.err
    metrics = [stage["metrics"] for stage in ran.json["stages"]]
    assert [row["parameters"] for row in planned] == [found["parameters"] for found in metrics]


@pytest.mark.parametrize(
    "chain",
    [
        "[inc.static_int8]",
        "[inc.dynamic_int8]",
        "[inc.autotune]",
        "[mixed_bits]",
        "[inc.qat: {epochs: 1}]",
        "[nni.ptq, deploy.int8]",
    ],
)
def test_int8_is_refused_where_a_layer_has_weights_that_no_graph_of_integers_has(
    detpress: Command, workplace: Path, chain: str
) -> None:
    multi_bias = ("--set", "model.arch=multi-bias-tiny", "--set", "measure={runtimes: [], memory: false}")
    said = detpress("validate", "small.yaml", "--set", f"chain={chain}", *multi_bias, "--no-data")
    assert said.code == 2
    assert "layers.1: MultiBias has weights of its own, which no network in int8 has; expected" in said.err
