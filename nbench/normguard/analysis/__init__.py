"""Analyses of a fine-tuned checkpoint: norm inflation, inference-time rescale, adjoint sensitivity, GRPO ratios."""

from nbench.normguard.analysis.adjoint import Sensitivity, adjoint_sensitivity
from nbench.normguard.analysis.coherence import Coherence, coherence, summarise_sensitivity
from nbench.normguard.analysis.inflation import Inflation, NormLine, inflation, summarise_inflation
from nbench.normguard.analysis.ratios import RatioLine, Ratios, ratio_statistics, summarise_ratios
from nbench.normguard.analysis.rescale import RescaleLine, RescaleStudy, rescale_study, settings_of

__all__ = [
    "Coherence",
    "Inflation",
    "NormLine",
    "RatioLine",
    "Ratios",
    "RescaleLine",
    "RescaleStudy",
    "Sensitivity",
    "adjoint_sensitivity",
    "coherence",
    "inflation",
    "ratio_statistics",
    "rescale_study",
    "settings_of",
    "summarise_inflation",
    "summarise_ratios",
    "summarise_sensitivity",
]
