"""The papers' claims, each a function from a study's tables to a verdict."""
