"""A receiver of alarms on the loopback, which a test may let fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """`with Webhook() as hook:`; `got` has each notice about the subject of this test that was
    answered with 200, in order. What else it is told of such a small bus is nobody's question."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.subject = ""
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.tries = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tries += 1
                status = outer.status
                if status == 200:
                    outer.headers.append(dict(self.headers))
                    outer.all.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/alarms"

    @property
    def got(self) -> list[dict[str, Any]]:
        return [notice for notice in self.all if notice["subject"] == self.subject]

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def told(self, name: str = "kind") -> list[Any]:
        return [notice[name] for notice in self.got]

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Waits in a thread's time: not for tests that run the monitor in their own loop."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.got
            time.sleep(0.02)
