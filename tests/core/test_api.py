"""What plugins of other packages rely on is there, and importing it is cheap."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detpress import api


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(api, name) is not None
    assert name in dir(api)


def test_the_manual_lists_all_names_and_the_version() -> None:
    manual = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    version, listed = re.search(r"Its version is (\d+);.*?\n\n(.*?)\n\n", manual, re.DOTALL).groups()  # type: ignore[union-attr]
    assert int(version) == api.API_VERSION
    assert re.findall(r"`(\w+)`", listed) == sorted(api.__all__)


def test_what_is_not_part_of_it_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'detpress\.api' has no attribute 'Nothing'"):
        _ = api.Nothing


def test_importing_it_imports_neither_torch_nor_an_engine() -> None:
    code = "import sys, detpress.api; print({'torch', 'nni', 'neural_compressor', 'openvino'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_the_places_of_before_still_give_the_same_things() -> None:
    from detpress import bundle, model, plugin, tuner

    assert plugin.Plugin is api.Plugin
    assert plugin.Config is api.Options
    assert tuner.Tuner is api.Tuner
    assert model.Model is api.Model
    assert bundle.load_bundle is api.load_bundle
