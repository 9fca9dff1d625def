"""How many bits each layer's weights get under a budget of mean bits."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


def cheapest_bits(
    costs: Mapping[int, Mapping[int, float]], sizes: Mapping[int, int], mean_bits: float
) -> dict[int, int]:
    """The bits of each layer that cost least in all, of those whose mean over all weights is within the budget.

        minimise    sum over layers of cost[layer][bits]
        subject to  sum over layers of size[layer] * bits <= mean_bits * sum of the sizes

    The integer program of Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", arXiv:2011.10680, 2021, section
    3.3, solved exactly.

    costs: by layer, by the bits that it may have. sizes: weights of each layer.
    Raises ValueError where the fewest bits of every layer are above the budget.
    """
    pairs = [(layer, bits) for layer in costs for bits in sorted(costs[layer])]
    cost = np.array([costs[layer][bits] for layer, bits in pairs], np.float64)
    shares = np.array([sizes[layer] * bits for layer, bits in pairs]) / sum(sizes[layer] for layer in costs)
    one_each = np.array([[float(layer == own) for own, _ in pairs] for layer in costs])
    found = milp(
        cost / max(np.abs(cost).max(), np.finfo(float).tiny),  # the solver's tolerances are absolute
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(shares, ub=mean_bits)],
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"no layer may have fewer bits, and their mean is above {mean_bits:g}")
    return {layer: bits for (layer, bits), chosen in zip(pairs, found.x, strict=True) if chosen > 0.5}
