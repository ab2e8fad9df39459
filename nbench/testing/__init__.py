"""Public fakes and tiny checkpoints, so that tests of nbench and of its plug-ins need no download and no GPU."""

from nbench.testing.fakes import FakeFlowModel, FakeScorer, FakeSetScorer, fake_loader
from nbench.testing.judge_server import JudgeServer
from nbench.testing.tiny import tiny_epsilon_pipeline, tiny_flux, tiny_lora, tiny_lumina2, tiny_sd3

__all__ = [
    "FakeFlowModel",
    "FakeScorer",
    "FakeSetScorer",
    "JudgeServer",
    "fake_loader",
    "tiny_epsilon_pipeline",
    "tiny_flux",
    "tiny_lora",
    "tiny_lumina2",
    "tiny_sd3",
]
