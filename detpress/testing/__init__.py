"""Whether a plugin keeps the contract, for its author's tests:

    @pytest.mark.parametrize("check", checks_of("mine.round", {"step": 0.1}), ids=str)
    def test_the_plugin_keeps_its_promises(check: PluginCheck) -> None:
        check()

`detpress plugins check mine.round --set step=0.1` says the same.
"""

from detpress.testing.checks import PluginCheck, checks_of
from detpress.testing.trial import BrokenPromiseError

__all__ = ["BrokenPromiseError", "PluginCheck", "checks_of"]
