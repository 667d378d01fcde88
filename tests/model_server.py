"""A scripted OpenAI-compatible server on the loopback, for tests: it plays whatever fault it is told to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

CUES = [{"modality": "text", "text": "says that it went well", "start": None, "end": None}]


@dataclass(frozen=True, kw_only=True)
class Play:
    """One reply: as it is, after `delay` seconds, byte by byte with `trickle` seconds between, or a reset."""

    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    trickle: float = 0.0
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    at: float
    body: dict[str, Any]
    headers: dict[str, str]


Script = Callable[[int, dict[str, Any]], Play]


def completion(text: str | None, *, model: str = "observer-1", finish: str = "stop", **message: Any) -> str:
    """The body of a chat completion."""
    content = {"role": "assistant", "content": text, **message}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": content, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    )


def evidence(text: str, answer: str = "happy", cues: list[dict[str, Any]] | None = None) -> str:
    """A reply in the form that the schema asks for."""
    return json.dumps({"cues": CUES if cues is None else cues, "rationale": text, "answer": answer})


def asked_text(body: dict[str, Any]) -> str:
    """All text of a request, joined."""
    parts = [
        part
        for message in body["messages"]
        for part in (
            message["content"]
            if isinstance(message["content"], list)
            else [{"type": "text", "text": message["content"]}]
        )
    ]
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


class ModelServer:
    """Serves `script(number of the request from 0, its body)` until the block ends."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # headers and body leave at once: with Nagle's algorithm each reply waits 40 ms
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                server._answer(self, json.loads(content))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            number = len(self.seen)
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.seen.append(Seen(at=time.monotonic(), body=body, headers=headers))
        play = self.script(number, body)
        time.sleep(play.delay)
        if play.reset:
            _reset(handler.connection)
            handler.close_connection = True
            return
        content = play.body.encode() if isinstance(play.body, str) else play.body
        try:
            _send(handler, play, content)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, play: Play, content: bytes) -> None:
    handler.send_response(play.status)
    for name, value in {"content-type": "application/json", **play.headers}.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    if not play.trickle:
        handler.wfile.write(content)
        return
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(play.trickle)


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
