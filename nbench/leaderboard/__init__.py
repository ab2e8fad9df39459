"""Boards: definitions, submissions and their checks, figures with intervals and ranks, files of a built board."""
