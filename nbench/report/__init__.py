"""Rendering of runs: tables and contact sheets. Nothing is computed here that a result does not hold."""
