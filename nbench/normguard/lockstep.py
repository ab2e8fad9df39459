"""What keeps the processes of a sharded training in step: all of them make the same forwards, in the same order.

Weights are gathered at each forward and backward, so a process that has less to do (fewer prompts, failed pictures)
makes idle ones, of one row, that add nothing. Where weights are not sharded, nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from nbench.flow.model import Conditioning
from nbench.normguard.methods import Draw
from nbench.normguard.policy import Policy, Role, RoleView
from nbench.normguard.processes import Processes
from nbench.normguard.rollout import PromptBank

T = TypeVar("T")

_ROLES: tuple[Role, ...] = ("policy", "old", "anchor", "ema", "reference")
_END = -1


class Lockstep:
    """Idle forwards, and forwards that one process leads.

    It relies on one call of the transformer per velocity, which is how the families guide.
    """

    def __init__(
        self,
        processes: Processes,
        policy: Policy,
        bank: PromptBank,
        *,
        text: str,
        guidance: float,
        size: tuple[int, int],
    ) -> None:
        """Prepare the row of idle forwards.

        Args:
            processes: all of them.
            policy: whose forwards.
            bank: encodes `text`.
            text: any prompt.
            guidance: of the velocities; decides how many network rows a forward has.
            size: (height, width) in pixels.
        """
        self.active = processes.sharded
        self._processes, self._policy, self._guidance = processes, policy, guidance
        if self.active:
            self._draw = _idle_draw(policy, bank.get([text]).to("cpu"), size)

    def most(self, count: int) -> int:
        """The most that any process has to do, where all must do as much; else `count`."""
        return max(self._processes.gather([count])) if self.active else count

    def draw(self) -> Draw:
        """Rows of an idle forward: one, of zeros."""
        device = self._policy.model.device
        one = self._draw
        return Draw(one.x.to(device), one.t.to(device), one.cond.to(device), one.advantage.to(device), one.target)

    @torch.no_grad()
    def idle(self, role: Role, count: int = 1) -> None:
        """Make `count` forwards of a role for nothing."""
        if not self.active or count < 1:
            return
        draw, view = self.draw(), self._policy.view(role)
        x = draw.x.to(self._policy.model.dtype)
        for _ in range(count):
            view.velocity(x, draw.t, draw.cond, guidance=self._guidance)

    def view(self, role: Role) -> RoleView:
        """A role whose forwards, made inside `led` on the main process alone, the others join."""
        return _LedView(self._policy, role, self._processes) if self.active else self._policy.view(role)

    def led(self, work: Callable[[], T]) -> T | None:
        """Do something on the main process alone, with the others joining the forwards of its `view`s.

        Returns:
            What `work` returns, on the main process; None on others, which come back when it is done.
        """
        if self._processes.main:
            done = work()
            if self.active:
                self._processes.from_main(_END)
            return done
        while self.active:
            said = self._processes.from_main(_END)
            if said == _END:
                break
            self.idle(_ROLES[said])
        return None


class _LedView(RoleView):
    """Tells the other processes of each forward."""

    def __init__(self, policy: Policy, role: Role, processes: Processes) -> None:
        super().__init__(policy, role)
        self._processes = processes

    def velocity(self, x: Tensor, sigma: Tensor, cond: Conditioning, *, guidance: float) -> Tensor:
        """The role's guided velocity."""
        self._processes.from_main(_ROLES.index(self.role))
        return super().velocity(x, sigma, cond, guidance=guidance)


def _idle_draw(policy: Policy, cond: Conditioning, size: tuple[int, int]) -> Draw:
    x = torch.zeros(1, *policy.model.latent_shape(*size))
    return Draw(x, torch.full((1,), 0.5), cond, torch.zeros(1, dtype=torch.float64), torch.zeros_like(x))
