"""Guards in a training: which velocities they compare, how much they weigh, and how a weight is calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nbench.flow.norms import rms
from nbench.normguard.config import GuardConfig, NormGuardConfig, ReferenceKlConfig
from nbench.normguard.guards import norm_hinge, old_policy_hinge, reference_kl, symmetric_norm
from nbench.normguard.methods.base import Draw
from nbench.normguard.policy import Role

_HINGES = {"norm_hinge": norm_hinge, "symmetric_norm": symmetric_norm, "old_policy_hinge": old_policy_hinge}


class Guard:
    """An additive guard: lambda times a penalty per row, on the states that the base loss drew.

    Attributes:
        name: of the guard.
        role: whose velocity the policy's is compared with.
        weight: lambda; None until it is calibrated.
    """

    def __init__(self, config: NormGuardConfig | ReferenceKlConfig) -> None:
        self.config = config
        self.name = config.name
        self.role: Role = "old" if config.name == "old_policy_hinge" else "reference"
        self.weight: float | None = config.weight

    def penalty(self, draw: Draw, v: Mapping[Role, Tensor]) -> Tensor:
        """Per row, [B], without lambda."""
        config = self.config
        if isinstance(config, ReferenceKlConfig):
            return reference_kl(v["policy"], v[self.role], draw.t, weighting=config.weighting)
        hinge = _HINGES[config.name]
        return hinge(v["policy"], v[self.role], mode=config.mode, power=config.power, margin=config.margin)

    def linear(self, v: Mapping[Role, Tensor]) -> Tensor:
        """The hinge with power 1, [B], whose gradient does not vanish with the inflation: what is calibrated on."""
        assert isinstance(self.config, NormGuardConfig)
        hinge = _HINGES[self.config.name]
        return hinge(v["policy"], v[self.role], mode=self.config.mode, power=1, margin=self.config.margin)

    def calibrate(self, base_gradient: float, linear_gradient: float, reference_norm: float) -> float:
        """Set and return lambda, so that the guard's gradient is `gradient_ratio` of the base loss's.

            power 1    lambda = ratio |grad L| / |grad h|
            power 2    lambda = ratio |grad L| / ( 2 h* |grad h| ),   h* = inflation n_ref

        The second makes the ratio hold for a norm that is `inflation` above the reference's: grad h^2 = 2 h grad h.

        Args:
            base_gradient: norm of the base loss's gradient over an optimiser step.
            linear_gradient: the same of the hinge with power 1; above 0.
            reference_norm: mean reference norm, in the unit of the hinge's mode.
        """
        assert isinstance(self.config, NormGuardConfig) and self.config.calibrate is not None
        wanted = self.config.calibrate
        weight = wanted.gradient_ratio * base_gradient / linear_gradient
        if self.config.power == 2:
            weight /= 2 * wanted.inflation * reference_norm
        self.weight = weight
        return weight

    def reference_norm(self, v: Mapping[Role, Tensor]) -> Tensor:
        """The compared norm per row, [B], in the unit of the hinge's mode."""
        assert isinstance(self.config, NormGuardConfig)
        norm = rms(v[self.role])
        if self.config.mode == "ratio":
            return torch.ones_like(norm)
        return norm * math.sqrt(v[self.role][0].numel()) if self.config.mode == "l2" else norm


def additive_guards(configs: Sequence[GuardConfig]) -> list[Guard]:
    """The guards that add a penalty; `ratio_norm` and `state_kl` are part of GRPO's own loss."""
    return [Guard(config) for config in configs if isinstance(config, NormGuardConfig | ReferenceKlConfig)]
