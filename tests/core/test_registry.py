"""Plugins come by entry points, strangers' and built-in ones alike; a broken one breaks nothing else."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from distribution import write_distribution

from detpress.contract.plugin import Plugin
from detpress.contract.registry import list_choosers, list_plugins, load_plugin, plugin_names
from detpress.doors.card import option_lines
from detpress.errors import InputError
from detpress.recipe.file import read_recipe

UNAVAILABLE = {"inc.autoround", "inc.awq", "inc.fp8", "inc.mx", "inc.smooth_quant", "inc.teq"}
BUILT_IN = {
    entry.name for entry in entry_points(group="detpress.plugins") if entry.dist and entry.dist.name == "detpress"
} - UNAVAILABLE


def list_with(folder: Path, module: str, entries: str) -> str:
    """What `detpress plugins --json` prints where another distribution is installed in `folder`."""
    write_distribution(folder, "stranger", "1.2", {"stranger.py": module}, f"[detpress.plugins]\n{entries}\n")
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv = ['detpress', 'plugins', '--json'];"
        "from detpress.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_built_in_plugins_work() -> None:
    assert len(BUILT_IN) > 50
    assert set(plugin_names()) >= BUILT_IN
    for listing in list_plugins(BUILT_IN):
        assert (listing.name, listing.status) == (listing.name, "working")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_plugin_and_every_option_is_documented(name: str) -> None:
    plugin = load_plugin(name)
    assert isinstance(plugin, Plugin)
    assert plugin.__doc__
    undocumented = [line for line in option_lines(plugin.Config) if not re.search(r"(required|default .*)\. \w", line)]
    assert undocumented in ([], ["  no options"])


def test_what_an_engine_has_and_cannot_do_here_is_listed_with_its_reason_and_refused_in_recipes(
    tmp_path: Path,
) -> None:
    for listing in list_plugins(UNAVAILABLE):
        assert (listing.name, listing.status) == (listing.name, "unavailable")
        assert listing.reason
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\ndata: {root: 'builtin:digits'}\nmodel: {weights: 'builtin:digits'}\nchain:\n"
        "  - inc.smooth_quant: {}\n"
    )
    with pytest.raises(InputError, match=r"recipe\.yaml:5: chain\[0\].*inc\.smooth_quant.*intel_extension_for_pytorch"):
        read_recipe(recipe)


UNAVAILABLE_TUNERS = {"nni.bohb", "nni.dngo", "nni.metis", "nni.network_morphism", "nni.pbt", "nni.ppo", "nni.smac"}


def test_a_tuner_of_nni_that_cannot_run_is_listed_with_its_reason_and_refused_in_recipes(tmp_path: Path) -> None:
    unavailable = {listing.name: listing.reason for listing in list_choosers() if listing.status == "unavailable"}
    assert set(unavailable) == {
        f"nni.{name}" for name in ["bohb", "dngo", "metis", "network_morphism", "pbt", "ppo", "smac"]
    }
    assert all(unavailable.values())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\ndata: {root: 'builtin:digits'}\nmodel: {weights: 'builtin:digits'}\n"
        "chain: [{nni.level: {sparsity: 0.5}}]\n"
        "search:\n  space: {'chain[0].sparsity': {uniform: [0.3, 0.9]}}\n  trials: 2\n  maximize: map\n"
        "  tuner: nni.smac\n"
    )
    with pytest.raises(InputError, match=r"recipe\.yaml:9: search\.tuner.*the tuner cannot run here: .*smac"):
        read_recipe(recipe)


def test_listing_plugins_imports_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys; from detpress.contract.registry import list_plugins; list_plugins();"
        "print([name for name in ('torch', 'nni', 'neural_compressor', 'openvino') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_strangers_plugin_that_cannot_be_imported_is_broken_and_disturbs_no_other(tmp_path: Path) -> None:

    printed = list_with(tmp_path, "raise OSError('no such engine')", "stranger.prune = stranger:Prune")
    rows = {row["name"]: row for row in json.loads(printed)}
    assert rows["stranger.prune"]["status"] == "broken"
    assert "no such engine" in rows["stranger.prune"]["reason"]
    assert rows["stranger.prune"]["distribution"] == "stranger 1.2"
    assert all(rows[name]["status"] == "working" for name in BUILT_IN)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown plugin 'nni\.l1nrm'; did you mean 'nni\.l1norm'"):
        load_plugin("nni.l1nrm")


@pytest.mark.parametrize("name", ["torch_pruning.l1norm", "stranger.prune"])
def test_a_name_of_another_package_is_not_taken_for_a_misspelling_of_ours(name: str) -> None:
    prefix = name.partition(".")[0]
    with pytest.raises(InputError) as refused:
        load_plugin(name)
    assert str(refused.value) == (
        f"unknown plugin '{name}'; nothing that is installed brings '{prefix}.*': "
        "is the package that does installed here?"
    )
