"""Studies: baseline-versus-guarded grids of trainings, their evaluation, and the papers' claims tested on them."""
