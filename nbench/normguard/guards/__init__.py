"""Guards: penalties and ratio corrections that go with any base loss, on the (x_t, t, c) that the loss drew.

A penalty is a number per sample, to be averaged, multiplied by its lambda and added. None draws random numbers.
"""

from nbench.normguard.guards.norm_hinge import norm_hinge, old_policy_hinge, symmetric_norm
from nbench.normguard.guards.ratio_norm import NormalizedRatio, ratio_norm
from nbench.normguard.guards.reference_kl import reference_kl, state_kl

__all__ = [
    "NormalizedRatio",
    "norm_hinge",
    "old_policy_hinge",
    "ratio_norm",
    "reference_kl",
    "state_kl",
    "symmetric_norm",
]
