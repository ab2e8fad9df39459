"""Where a judge's server is: a URL that people give in several forms, and that must not show its secrets."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from nbench.errors import ScorerError


@dataclass(frozen=True)
class Address:
    """A server's URL without /v1, user name, password, query and fragment; `str` gives it.

    Attributes:
        root: e.g. "http://127.0.0.1:8000".
        host: e.g. "127.0.0.1".
    """

    root: str
    host: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL, with or without /v1 at its end.

        Raises:
            ScorerError: it is no http or https URL, or holds a user name or password.
        """
        example = "use http://HOST:PORT, such as http://127.0.0.1:8000"
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ScorerError(f"the judge's URL cannot be read ({error}): {example}.") from None
        if "@" in parts.netloc:  # before any message shows the URL
            raise ScorerError(f"the judge's URL holds a user name or password: {example}, and NBENCH_JUDGE_API_KEY.")
        if parts.scheme not in ("http", "https") or not host:
            raise ScorerError(f"the judge's URL {url!r} is no http address: {example}.")
        shown = f"[{host}]" if ":" in host else host
        where = shown if port is None else f"{shown}:{port}"
        return cls(f"{parts.scheme}://{where}{parts.path.rstrip('/').removesuffix('/v1')}", host)

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def at(self, path: str) -> str:
        """The URL of a path that begins with a slash."""
        return self.root + path

    def __str__(self) -> str:
        return self.root
