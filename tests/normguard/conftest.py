"""Property tests here run on tensors, whose first use in a process is slow: hypothesis must not time them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tensors", deadline=None)
settings.load_profile("tensors")
