"""Statistics: pure functions on arrays, importing nothing of nbench."""
