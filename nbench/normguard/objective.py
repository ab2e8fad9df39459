"""Forwards of an update and what is minimised over them: the method's loss plus the guards' penalties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from nbench.normguard.guarding import Guard
from nbench.normguard.log_record import monitor
from nbench.normguard.methods import Draw, Method
from nbench.normguard.policy import Policy, Role
from nbench.normguard.probe import Probe
from nbench.normguard.tally import Stopwatch, Tally


class Objective:
    """The objective of a training, batch by batch."""

    def __init__(
        self,
        method: Method,
        policy: Policy,
        *,
        guidance: float,
        autocast: Callable[[], AbstractContextManager[Any]],
        watch: Stopwatch,
    ) -> None:
        """Nothing is computed yet.

        Args:
            method: its loss, and the roles that it compares.
            policy: whose velocities.
            guidance: of all velocities.
            autocast: entered for each forward.
            watch: takes the seconds of forwards.
        """
        self._method, self._policy = method, policy
        self._guidance, self._autocast, self._watch = guidance, autocast, watch

    def velocities(self, draw: Draw, guards: Sequence[Guard], *, monitored: bool = False) -> dict[Role, Tensor]:
        """Velocities at a draw: the policy's with gradient, and those that the method and the guards compare it with.

        Args:
            draw: where.
            guards: additive ones.
            monitored: also the reference's, for the log.
        """
        model = self._policy.model
        wanted = dict.fromkeys((*self._method.forwards, *(guard.role for guard in guards if guard.weight != 0)))
        if monitored or any(guard.weight == 0 for guard in guards):
            wanted["reference"] = None
        x = draw.x.to(model.dtype)
        found: dict[Role, Tensor] = {}
        for role in wanted:
            with self._watch.section(f"forward_{role}"), torch.no_grad(), self._autocast():
                found[role] = self._policy.view(role).velocity(x, draw.t, draw.cond, guidance=self._guidance)
        with self._watch.section("forward_policy"), self._autocast():
            found["policy"] = self._policy.view("policy").velocity(x, draw.t, draw.cond, guidance=self._guidance)
        return found

    def loss(
        self,
        draw: Draw,
        v: Mapping[Role, Tensor],
        guards: Sequence[Guard],
        *,
        rows: int,
        tally: Tally,
        probes: Mapping[str, Probe],
    ) -> Tensor:
        """The share of a draw in the objective's mean over `rows` rows.

        Args:
            draw: where.
            v: velocities there.
            guards: additive ones.
            rows: of the whole update, over all processes.
            tally: takes what is logged.
            probes: of the guards that have no weight yet, by name.
        """
        result = self._method.loss(draw, v)
        places = draw.t if draw.step is None else draw.step
        tally.add("loss", result.rows, draw.t)
        for name, values in result.stats.items():
            tally.add(name, values, places)
        loss = result.rows.sum() / rows
        for guard in guards:
            if guard.weight is None:
                probes[guard.name].add(guard, v, rows)
            with torch.set_grad_enabled(bool(guard.weight)):  # without a weight it is only measured
                penalty = guard.penalty(draw, v)
            if guard.weight:
                loss = loss + guard.weight * (penalty.sum() / rows)
            tally.add(f"{guard.name}/penalty", penalty, draw.t)
            tally.add(f"{guard.name}/active", (penalty > 0).double(), draw.t)
        if "reference" in v:
            monitor(v, draw, tally)
        return loss

    def idle(self, draw: Draw, guards: Sequence[Guard], probes: Mapping[str, Probe], *, monitored: bool) -> None:
        """The forwards and backwards of one batch for nothing, since another process has one more.

        Args:
            draw: an idle one.
            guards: additive ones.
            probes: of the guards that have no weight yet, by name.
            monitored: as of the batch that the others have.
        """
        v = self.velocities(draw, guards, monitored=monitored)
        nothing = (v["policy"].float() * 0).sum()
        for probe in probes.values():
            probe.take(nothing)
        nothing.backward()
