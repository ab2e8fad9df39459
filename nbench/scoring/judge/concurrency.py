"""How many requests are under way at once: more while the server keeps up, half when it says that it does not.

The rule of TCP (additive increase, multiplicative decrease; Chiu and Jain 1989): each answer raises the limit by
1/limit, so by one per full round, and an overload halves it, once per round.
"""

from __future__ import annotations

import asyncio
from collections import deque


class AdaptiveLimit:
    """Slots for requests, given first come, first served; for one event loop.

    Args:
        start: slots at first.
        most: never more than that.

    Attributes:
        under_way: slots taken.
        peak: most slots ever taken at once.
    """

    def __init__(self, start: int = 8, most: int = 64) -> None:
        if not 1 <= start <= most:
            raise ValueError(f"start is {start} and most is {most}: 1 <= start <= most is needed")
        self._limit = float(start)
        self._most = float(most)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._round = 0
        self.under_way = 0
        self.peak = 0

    @property
    def limit(self) -> int:
        """Slots there are now, at least 1."""
        return int(self._limit)

    async def acquire(self) -> int:
        """Wait for a slot; `release` gives it back. Returns the round, which `overloaded` wants to know."""
        if self._waiting or self.under_way >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.release()  # the slot came together with the cancellation
                raise
        else:
            self._take()
        return self._round

    def release(self) -> None:
        """Give a slot back."""
        self.under_way -= 1
        self._wake()

    def answered(self) -> None:
        """The server answered: a little more."""
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._wake()

    def overloaded(self, seen_in: int) -> int:
        """The server is overloaded: half, unless that was done since the request began.

        Args:
            seen_in: the round that `acquire`, or the last call of this, gave.

        Returns:
            The round now.
        """
        if seen_in == self._round:
            self._round += 1
            self._limit = max(1.0, self._limit / 2)
        return self._round

    def _take(self) -> None:
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)

    def _wake(self) -> None:
        while self._waiting and self.under_way < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one waits no more
                turn.set_result(None)
                self._take()
