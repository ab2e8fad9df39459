"""Requests to a server that may be overloaded, failing, silent or gone: sent until answered or given up.

Tried again, with growing and randomised waits: a server that is overloaded (429) or failing (5xx), and a connection
that is refused, breaks or stays silent. Not tried again: what another attempt would not change.

The API key is read from the environment variable NBENCH_JUDGE_API_KEY. It is sent to the server, and is in no message.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbench.errors import ScorerError
from nbench.scoring.judge.address import Address
from nbench.scoring.judge.concurrency import AdaptiveLimit

if TYPE_CHECKING:
    import httpx

#: environment variable that holds the API key
KEY_VARIABLE = "NBENCH_JUDGE_API_KEY"


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        connect_seconds: to get a connection.
        silence_seconds: without a byte from the server, which generates before it answers.
        deadline_seconds: for one request, from its first attempt on, waits included.
        attempts: at most.
        first_wait: seconds after the first attempt; doubled after each further one.
        longest_wait: upper end of the waits; a server's own Retry-After may be longer.
    """

    connect_seconds: float = 5.0
    silence_seconds: float = 120.0
    deadline_seconds: float = 600.0
    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 20.0


@dataclass
class GaveUpError(Exception):
    """There was no usable response.

    Attributes:
        reason: of the last attempt, without secrets.
        attempts: how many there were.
        unreachable: whether the last one found no server at all.
    """

    reason: str
    attempts: int
    unreachable: bool = False


class Transport:
    """Connections to one server, for one event loop.

    Args:
        address: of the server.
        key: API key, or "" for none; None takes the environment's.
        patience: how long to try.
        limit: hears of answers and overloads.
        most: connections at most.

    Raises:
        ScorerError: httpx is not installed.
    """

    def __init__(
        self, address: Address, *, key: str | None, patience: Patience, limit: AdaptiveLimit, most: int
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ScorerError("judges need the package httpx: pip install 'nbench[judge]'.") from error
        self.address = address
        self._key = os.environ.get(KEY_VARIABLE, "") if key is None else key
        self._patience = patience
        self._limit = limit
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(patience.silence_seconds, connect=patience.connect_seconds, pool=None),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            trust_env=not address.loopback,  # a proxy of the environment has no way to this machine
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(
        self, method: str, path: str, body: bytes | None = None, seen_in: int = -1
    ) -> tuple[httpx.Response, int]:
        """A response that is neither 429 nor 5xx, and the number of attempts that it took.

        Args:
            method: of HTTP.
            path: from the server's root.
            body: JSON.
            seen_in: the round of the limit that the request began in; -1 for one that stands outside of it.

        Raises:
            GaveUpError: there was none in the time.
            ScorerError: the server wants another key.
        """
        import httpx

        patience, attempt, reason, unreachable = self._patience, 0, "silence", False
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with asyncio.timeout(patience.deadline_seconds):
                while True:
                    attempt += 1
                    wait = min(patience.longest_wait, patience.first_wait * 2 ** (attempt - 1))
                    wait *= random.uniform(0.5, 1.0)  # so that many that failed together do not come back together
                    try:
                        reply = await self._http.request(method, self.address.at(path), content=body, headers=headers)
                    except httpx.TransportError as error:
                        unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                        reason = self.clean(f"{type(error).__name__}: {error}".rstrip(": "))
                        if isinstance(error, httpx.TimeoutException):
                            seen_in = self._limit.overloaded(seen_in)
                    except httpx.HTTPError as error:
                        raise GaveUpError(self.clean(f"the reply cannot be read: {error}"), attempt) from error
                    else:
                        unreachable = False
                        if reply.status_code in (401, 403):
                            raise ScorerError(
                                f"{self.address} refuses the API key ({self.said(reply)}): set {KEY_VARIABLE}."
                            )
                        if reply.status_code != 429 and reply.status_code < 500:
                            self._limit.answered()
                            return reply, attempt
                        reason = f"the server gave {self.said(reply)}"
                        wait = max(wait, _retry_after(reply))
                        if reply.status_code in (429, 503):
                            seen_in = self._limit.overloaded(seen_in)
                    if attempt >= patience.attempts:
                        raise GaveUpError(f"{reason} (attempt {attempt}, the last)", attempt, unreachable)
                    await asyncio.sleep(wait)
        except TimeoutError:
            said = f"no answer within {patience.deadline_seconds:g} s, the last attempt: {reason}"
            raise GaveUpError(said, attempt, unreachable) from None

    def said(self, reply: httpx.Response) -> str:
        """Status and message of a response, without secrets, in one line."""
        text: Any = reply.text
        try:
            found = reply.json()
            text = found.get("error", found.get("message", text))
            text = text.get("message", text) if isinstance(text, dict) else text
        except (ValueError, AttributeError):
            pass
        return self.clean(f"{reply.status_code} {' '.join(str(text).split())[:200]}".strip())

    def clean(self, text: str) -> str:
        """The text without the key, which a server may repeat."""
        return text.replace(self._key, "***") if self._key else text


def _retry_after(reply: httpx.Response) -> float:
    try:
        return max(0.0, float(reply.headers.get("Retry-After", 0)))
    except ValueError:  # a date
        return 0.0
