"""Bundled CPU-size checkpoints and scorers, and the recipes that trained them."""
