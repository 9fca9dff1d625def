"""Bridges that reach into an engine refuse another version of it."""

import importlib

import pytest

from detpress import doors
from detpress.adapters import nni_training, nni_tune
from detpress.errors import InputError


@pytest.mark.parametrize("bridge", [nni_tune, nni_training])
def test_another_version_of_nni_is_one_sentence(bridge: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.0")
    doors.version.cache_clear()
    try:
        with pytest.raises(InputError, match=r"^nni 4\.0 is installed, but .*: expected nni 3\.0$"):
            importlib.reload(bridge)
    finally:
        doors.version.cache_clear()
