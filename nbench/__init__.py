"""nbench: evaluation harness for flow-matching text-to-image models fine-tuned with reinforcement learning."""

from nbench import _torchvision_cpu

__version__ = "0.1.0"

_torchvision_cpu.install()
