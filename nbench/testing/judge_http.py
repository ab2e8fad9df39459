"""The HTTP side of `nbench.testing.judge_server`: connections, paths, and the faults that are about bytes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbench.testing.judge_server import Fault, JudgeServer


class Listener(ThreadingHTTPServer):
    """One thread per connection; `cut` ends them all.

    Args:
        judge: what it serves.
        port: to listen on; 0 for a free one.

    Attributes:
        gone: set when the server stops, for those that hang.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, judge: JudgeServer, port: int) -> None:
        self.judge = judge
        self.gone = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def opened(self, connection: socket.socket) -> None:
        """Note a connection."""
        with self._open_lock:
            self._open.add(connection)
            self.judge.connections += 1

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._open_lock:
            self._open.discard(connection)

    def cut(self) -> None:
        """End every open connection."""
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it was closed meanwhile

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that end early are what it is for; say nothing."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        """Note the connection."""
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """Health, version, models."""
        judge = self.server.judge
        if not self._may_go_on():
            return
        if self.path == "/v1/models":
            owner = "vllm" if judge.vllm else "fake"
            entry = {"id": judge.model, "object": "model", "owned_by": owner, "root": judge.root or judge.model}
            self._send(200, {"object": "list", "data": [entry]})
        elif self.path == "/version" and judge.vllm:
            self._send(200, {"version": "0.0.0+fake"})
        elif self.path == "/health":
            self._send(200, {})
        else:
            self._error(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        """Tokens, and chat with its faults."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may_go_on():
            return
        try:
            body = json.loads(raw)
        except ValueError:
            self._error(400, "the body is no JSON")
            return
        if body.get("model") != self.server.judge.model:
            self._error(404, f"The model `{body.get('model')}` does not exist.")
        elif self.path == "/tokenize" and self.server.judge.vllm:
            self._send(200, {"tokens": self.server.judge.tokenize(body["prompt"])})
        elif self.path == "/v1/chat/completions":
            try:
                self._chat(body, self.server.judge.take(body))
            finally:
                self.server.judge.leave()
        else:
            self._error(404, f"no such path: {self.path}")

    def _chat(self, body: dict[str, Any], fault: Fault | None) -> None:
        judge = self.server.judge
        if fault == "hang":
            self.server.gone.wait(judge.hang_seconds)
            self.close_connection = True
            return
        if judge.delay:
            time.sleep(judge.delay)
        if fault is not None and fault.isdigit():
            headers = {"Retry-After": f"{judge.retry_after:g}"} if fault == "429" else {}
            self._error(int(fault), judge.told or f"told to give {fault}", headers)
        elif fault == "close":
            self.close_connection = True
        elif fault == "malformed":
            self._raw(200, b'{"choices": [{"message": ')
        elif fault == "truncated":
            reply = json.dumps(judge.reply(body)).encode()
            self._raw(200, reply[: len(reply) // 2], length=len(reply))
            self.close_connection = True
        elif fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
            self._send(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        else:
            self._send(200, judge.reply(body, logprobs=fault != "no logprobs"))
            judge.note_answered(body)

    def _may_go_on(self) -> bool:
        judge = self.server.judge
        if not judge.ready():
            self._error(503, "starting")
        elif judge.key and self.headers.get("Authorization") != f"Bearer {judge.key}":
            self._error(401, f"wrong API key: {self.headers.get('Authorization')}")  # a careless server: it repeats it
        else:
            return True
        return False

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, {"error": {"message": message, "code": status}}, headers)

    def _send(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._raw(status, json.dumps(body).encode(), headers=headers)

    def _raw(
        self, status: int, body: bytes, *, length: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
