"""Importance ratios of an analysis, prompt by prompt, with moments that can be resampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbench.stats.bootstrap import Floats
from nbench.study.claims.pooling import Figured

if TYPE_CHECKING:
    import pyarrow as pa

#: kinds of ratios, and their columns in an analysis
KINDS = {"raw": "log_ratio", "normalised": "log_ratio_normalised"}
_TINY = 1e-300


@dataclass(frozen=True)
class Moments:
    """Of one kind of log-ratio over samples, by step.

    Attributes:
        mean, std: [..., steps].
        halves: standard deviation over every second prompt and over the others, [..., steps] each.
    """

    mean: Floats
    std: Floats
    halves: tuple[Floats, Floats]


@dataclass(frozen=True)
class LogRatios:
    """Log-ratios of a checkpoint on its base's rollouts.

    Attributes:
        name: of the training.
        training: its full name.
        prompts: ids.
        sigmas: t of each step.
        centre: per kind, means over all samples, [steps]: moments are taken about them, for the sake of rounding.
        first, second: per kind, mean over a prompt's samples of x - centre and of its square, [prompts, steps].
        excess: mean over a prompt's samples and steps of ratio - 1, raw, [prompts].
    """

    name: str
    training: str
    prompts: tuple[str, ...]
    sigmas: tuple[float, ...]
    centre: Mapping[str, Floats]
    first: Mapping[str, Floats]
    second: Mapping[str, Floats]
    excess: Floats

    def figured(self, figure: Callable[[Mapping[str, Moments]], Floats]) -> Figured:
        """A figure of the moments of each kind, taken anew on every resample of prompts."""
        half = np.arange(len(self.prompts)) % 2
        columns = []
        for side in (0, 1):
            mine = (half == side).astype(np.float64)[:, None]
            tables = [table for kind in KINDS for table in (self.first[kind], self.second[kind])]
            columns += [mine, *(mine * table for table in tables)]
        return Figured(
            self.name, self.prompts, np.concatenate(columns, axis=1), lambda means: figure(self._moments(means))
        )

    def _moments(self, means: Floats) -> dict[str, Moments]:
        """From the columns of `figured`."""
        count, width = len(self.sigmas), 1 + 2 * len(KINDS) * len(self.sigmas)
        sides = [means[..., side * width : (side + 1) * width] for side in (0, 1)]
        found = {}
        for i, kind in enumerate(KINDS):
            first, second = (slice(1 + (2 * i + n) * count, 1 + (2 * i + n + 1) * count) for n in (0, 1))
            halves = [_std(one[..., first], one[..., second], one[..., :1]) for one in sides]
            whole = sides[0] + sides[1]
            std = _std(whole[..., first], whole[..., second], whole[..., :1])
            found[kind] = Moments(whole[..., first] + self.centre[kind], std, (halves[0], halves[1]))
        return found

    def by_step(self, kind: str) -> tuple[Floats, Floats]:
        """(mean, standard deviation) over samples, [steps] each."""
        first, second = self.first[kind].mean(axis=0), self.second[kind].mean(axis=0)
        return first + self.centre[kind], np.sqrt(np.maximum(second - first**2, 0.0))


def log_ratios(table: pa.Table, checkpoint: str, name: str, training: str) -> LogRatios | None:
    """Moments by prompt; samples with a log-ratio that is not finite are left out. None where none is left."""
    import pyarrow.compute as pc

    mine = table.filter(pc.equal(table["checkpoint"], checkpoint))
    ids, seeds, steps = (mine[column].to_pylist() for column in ("prompt_id", "seed", "step"))
    number_of: dict[tuple[str, int], int] = {}
    row = np.array([number_of.setdefault(key, len(number_of)) for key in zip(ids, seeds, strict=True)])
    count = max(steps) + 1
    values = {}
    for kind, column in KINDS.items():
        values[kind] = np.full((len(number_of), count), math.nan)
        values[kind][row, np.array(steps)] = mine[column].to_numpy(zero_copy_only=False)
    sound = np.all([np.isfinite(one).all(axis=1) for one in values.values()], axis=0)
    if not sound.any():
        return None
    of_sample = [prompt for (prompt, _), good in zip(number_of, sound, strict=True) if good]
    prompts = tuple(dict.fromkeys(of_sample))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    index = np.array([place[prompt] for prompt in of_sample])

    def by_prompt(table_: Floats) -> Floats:
        sums = np.zeros((len(prompts), *table_.shape[1:]))
        np.add.at(sums, index, table_)
        counts = np.bincount(index).astype(np.float64)
        return np.asarray(sums / counts.reshape(-1, *[1] * (table_.ndim - 1)))

    kept = {kind: one[sound] for kind, one in values.items()}
    centre = {kind: one.mean(axis=0) for kind, one in kept.items()}
    sigma_at = dict(zip(steps, mine["sigma"].to_pylist(), strict=True))
    return LogRatios(
        name=name,
        training=training,
        prompts=prompts,
        sigmas=tuple(float(sigma_at[step]) for step in range(count)),
        centre=centre,
        first={kind: by_prompt(one - centre[kind]) for kind, one in kept.items()},
        second={kind: by_prompt((one - centre[kind]) ** 2) for kind, one in kept.items()},
        excess=by_prompt(np.expm1(kept["raw"]).mean(axis=1)),
    )


def _std(first: Floats, second: Floats, share: Floats) -> Floats:
    """From sums of x and of its square over a share of the prompts; never 0, since it is divided by."""
    share = np.maximum(share, _TINY)
    return np.asarray(np.maximum(np.sqrt(np.maximum(second / share - (first / share) ** 2, 0.0)), _TINY))
