"""The report of runs that last, for a browser on the same machine: read only, behind a token in the address."""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bilevel.report.page import document, page
from bilevel.report.runs import found

HOST = "127.0.0.1"  # no other machine can connect
EVERY = 5  # seconds after which the browser asks again


class Server(ThreadingHTTPServer):
    """Serves one page, at ``address``, about the runs in a folder. ``port`` 0 takes a free one.

    Every other address is answered by 404, so that a program of another user of the machine has to guess the token. A
    request under another host name is refused too, because a page in the same browser could have its own name point
    here.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__((HOST, port), Handler)
        self.folder, self.token = folder, secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def html(self) -> str:
        """The page as the record is now."""
        try:
            return page(found([self.folder]), EVERY)
        except ValueError:  # nothing is recorded yet
            return document("no run yet", f"<h1>No run in {self.folder.name} yet</h1>", EVERY)


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]  # the base class knows no server of ours

    def do_GET(self) -> None:
        known = hmac.compare_digest(self.path.encode(), f"/{self.server.token}/".encode())
        if not known or self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = self.server.html().encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a terminal with the address needs no list of requests."""
