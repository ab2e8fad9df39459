"""Figures of an epoch: collected per row on the device, gathered over processes, summarised once."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_BUCKETS = 10  # of t, each 0.1 wide


class Stopwatch:
    """Seconds by section; on a GPU it waits for kernels only when `exact`, since waiting costs speed."""

    def __init__(self, device: torch.device, *, exact: bool = False) -> None:
        self._wait = exact and device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        if self._wait:
            torch.cuda.synchronize()
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._wait:
                torch.cuda.synchronize()
            self.seconds[name] += time.perf_counter() - started


class Tally:
    """Numbers per row, with the time (and, on trajectories, the step) that each belongs to."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._places: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, name: str, values: Tensor, places: Tensor) -> None:
        """Rows `values` [B] that belong to `places` [B]: times in [0, 1], or step numbers (an integer dtype)."""
        self._values[name].append(values.detach().double())
        self._places[name].append(places.detach())

    def summary(self, gather: Any = None) -> dict[str, dict[str, Any]]:
        """Name -> {mean, std, count, by: {bucket: {mean, std, count}}}, over all processes.

        Args:
            gather: accelerate's `gather_object`, or None for one process.
        """
        rows = [(name, self._moments(name)) for name in self._values]
        if gather is not None:
            rows = gather(rows)
        merged: dict[str, dict[str, list[float]]] = {}
        for name, buckets in rows:
            into = merged.setdefault(name, {})
            for bucket, parts in buckets.items():
                into[bucket] = [a + b for a, b in zip(into.get(bucket, [0.0, 0.0, 0.0]), parts, strict=True)]
        return {name: _described(buckets) for name, buckets in sorted(merged.items())}

    def _moments(self, name: str) -> dict[str, list[float]]:
        """Bucket -> [count, sum, sum of squares]."""
        values, places = torch.cat(self._values[name]).cpu(), torch.cat(self._places[name]).cpu()
        if places.dtype.is_floating_point:
            places = (places * _BUCKETS).floor().clamp(0, _BUCKETS - 1) / _BUCKETS
            labels = [f"{place:.1f}" for place in places.tolist()]
        else:
            labels = [str(place) for place in places.tolist()]
        found: dict[str, list[float]] = {}
        for label, value in zip(labels, values.tolist(), strict=True):
            parts = found.setdefault(label, [0.0, 0.0, 0.0])
            parts[0] += 1
            parts[1] += value
            parts[2] += value * value
        return found


def _described(buckets: Mapping[str, list[float]]) -> dict[str, Any]:
    def figures(parts: list[float]) -> dict[str, float]:
        count, total, squares = parts
        mean = total / count
        return {"mean": mean, "std": math.sqrt(max(squares / count - mean * mean, 0.0)), "count": int(count)}

    whole = [sum(parts[i] for parts in buckets.values()) for i in range(3)]
    order = sorted(buckets, key=float)
    return {**figures(whole), "by": {bucket: figures(buckets[bucket]) for bucket in order}}
