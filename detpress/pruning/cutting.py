"""A cut carried out: the network without what goes."""

from detpress.detector.coupling import by_convolution
from detpress.detector.narrowing import narrow
from detpress.detector.network import Network
from detpress.detector.removal import remove_blocks
from detpress.pruning.budgets import Cut


def carry_out(network: Network, cut: Cut) -> Network:
    """The network without the filters and blocks of the cut."""
    return remove_blocks(narrow(network, by_convolution(network.architecture, cut.kept)), cut.blocks)
