"""The judge's client for code that is not asynchronous: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nbench.scoring.judge.client import JudgeClient

T = TypeVar("T")


class JudgeSession:
    """A `JudgeClient` and the loop that it lives in. Its connections stay open until `close`.

    Args:
        make: makes the client; called once, in the loop.
    """

    def __init__(self, make: Callable[[], JudgeClient]) -> None:
        self._loop = asyncio.new_event_loop()
        # a daemon, so that a program that forgets `close` still ends
        self._thread = threading.Thread(target=self._loop.run_forever, name="nbench-judge", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(self._made(make))
        except BaseException:
            self._stop()
            raise

    @staticmethod
    async def _made(make: Callable[[], JudgeClient]) -> JudgeClient:
        return make()

    def run(self, call: Callable[[JudgeClient], Awaitable[T]]) -> T:
        """What `call` gives for the client; Ctrl-C while waiting cancels it.

        Raises:
            NbenchError: as the client does.
        """
        return self._wait(call(self._client))

    def _wait(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the connections and end the thread."""
        if not self._loop.is_closed():
            self._wait(self._client.close())
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
