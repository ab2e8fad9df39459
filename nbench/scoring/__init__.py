"""Scorers: pictures and prompts in, values or reasons out."""
