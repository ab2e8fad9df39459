"""The four methods as the trainer sees them: which pictures, which states, which forwards, which loss."""

from __future__ import annotations

from nbench.normguard.config import AwmConfig, DpoConfig, GrpoConfig, NftConfig, TrainConfig
from nbench.normguard.methods.base import Draw, Epoch, LossResult, Method
from nbench.normguard.methods.grpo import Grpo
from nbench.normguard.methods.matching import Awm, Nft
from nbench.normguard.methods.preference import Dpo

__all__ = ["Draw", "Epoch", "LossResult", "Method", "make_method"]


def make_method(config: TrainConfig) -> Method:
    """The method that a config names."""
    method = config.method
    if isinstance(method, NftConfig):
        return Nft(config, method)
    if isinstance(method, AwmConfig):
        return Awm(config, method)
    if isinstance(method, DpoConfig):
        return Dpo(config, method)
    assert isinstance(method, GrpoConfig)
    return Grpo(config, method)
