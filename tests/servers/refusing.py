"""A storage account that refuses everything, as Azure documents it: what Azurite never says."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .tokens import Certificate


class Refusing:
    """An account over HTTPS that refuses everything, with the code and headers that it is given."""

    def __init__(self, certificate: Certificate) -> None:
        self.status, self.code, self.headers = 403, "AuthenticationFailed", dict[str, str]()
        self.asked = 0
        handler = type("RefusingHandler", (_Handler,), {"server_": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        context = certificate.context()
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Refusing:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/acc"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Refusing

    def do_GET(self) -> None:
        self.server_.asked += 1
        self.send_response_only(self.server_.status)
        headers = {"Date": format_datetime(datetime.now(UTC), usegmt=True), **self.server_.headers}
        for name, value in {**headers, "x-ms-error-code": self.server_.code}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        pass
