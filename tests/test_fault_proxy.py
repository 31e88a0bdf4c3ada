"""The fault proxy does what it says: each fault, as a plain HTTP client sees it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers.fault_proxy import Asked, Chances, Fault, FaultProxy

CONTENT = random.Random(1).randbytes(1 << 20)
RANGE = {"Range": "bytes=100-299"}


class Upstream(BaseHTTPRequestHandler):
    """Serves CONTENT, whole, by range or in chunks; answers a PUT with what came."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    puts: list[bytes]

    def do_GET(self) -> None:
        first, _, last = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
        data = CONTENT[int(first or 0) : int(last or len(CONTENT)) + 1]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(data), 70_000):
                piece = data[start : start + 70_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if len(data) < int(self.headers.get("Content-Length") or 0):
            self.close_connection = True
            return
        self.puts.append(data)
        self.send_response(201)
        self.send_header("X-Host", self.headers["Host"])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def puts() -> list[bytes]:
    """The bodies that reached the server."""
    return []


@pytest.fixture
def proxy(puts: list[bytes]) -> Iterator[FaultProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Upstream,), {"puts": puts}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with FaultProxy(f"http://127.0.0.1:{server.server_port}") as through:
        yield through
    server.shutdown()
    server.server_close()


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def ask(proxy: FaultProxy) -> Iterator[Ask]:
    """One request over the one connection: status, headers and body; raises what a client would see."""
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)

    def send(
        method: str = "GET",
        target: str = "/x",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise

    yield send
    connection.close()


def test_what_is_not_to_be_spoiled_passes_unchanged(
    proxy: FaultProxy, ask: Ask, puts: list[bytes]
) -> None:
    assert ask()[::2] == (200, CONTENT)
    assert ask(target="/chunked")[::2] == (200, CONTENT)
    assert ask(headers=RANGE)[::2] == (206, CONTENT[100:300])
    status, headers, body = ask("HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(CONTENT)), b"")
    status, headers, _ = ask("PUT", body=CONTENT)
    assert (status, headers["x-host"]) == (201, urlsplit(proxy.url).netloc)
    assert puts == [CONTENT]
    assert {hit.fault for hit in proxy.log} == {""}


@pytest.mark.parametrize("target", ["/x", "/chunked"])
def test_an_answer_is_reset_in_the_middle(proxy: FaultProxy, ask: Ask, target: str) -> None:
    proxy.once("reset", "GET", target)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        ask(target=target)
    assert ask(target=target)[2] == CONTENT


def test_an_answer_is_cut_off_in_the_middle(proxy: FaultProxy, ask: Ask) -> None:
    proxy.once(Fault("cut", at=0.25), "GET", "/x")
    with pytest.raises(http.client.IncompleteRead) as error:
        ask()
    assert error.value.partial == CONTENT[: len(CONTENT) // 4]


@pytest.mark.parametrize("kind", ["reset-request", "cut-request"])
def test_a_request_is_broken_off_before_the_server_has_it(
    proxy: FaultProxy, ask: Ask, puts: list[bytes], kind: Any
) -> None:
    proxy.once(kind, "PUT", "/x")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask("PUT", body=CONTENT)
    assert puts == []
    assert ask("PUT", body=CONTENT)[0] == 201


def test_an_answer_is_lost_and_the_request_was_done(
    proxy: FaultProxy, ask: Ask, puts: list[bytes]
) -> None:
    proxy.once("lost", "PUT", "/x")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask("PUT", body=b"abc")
    assert puts == [b"abc"]


def test_a_range_is_short_and_says_so(proxy: FaultProxy, ask: Ask) -> None:
    proxy.once("short", "GET", "/x")
    status, headers, body = ask(headers=RANGE)
    assert (status, body) == (206, CONTENT[100:200])
    assert headers["content-range"] == f"bytes 100-199/{len(CONTENT)}"
    assert headers["content-length"] == "100"
    assert ask(headers=RANGE)[2] == CONTENT[100:300]


def test_one_bit_is_flipped_in_an_answer_or_a_request(
    proxy: FaultProxy, ask: Ask, puts: list[bytes]
) -> None:
    def differing(found: bytes) -> list[int]:
        return [at for at, (a, b) in enumerate(zip(found, CONTENT, strict=True)) if a != b]

    proxy.once(Fault("flip", at=0.9), "GET", "/x")
    assert differing(ask()[2]) == [int(0.9 * len(CONTENT))]
    proxy.once(Fault("flip-request", at=0.0), "PUT", "/x")
    ask("PUT", body=CONTENT)
    assert differing(puts[0]) == [0]


@pytest.mark.parametrize("like", ["azure", "hub"])
def test_a_refusal_is_in_the_servers_own_words(
    proxy: FaultProxy, ask: Ask, puts: list[bytes], like: str
) -> None:
    proxy.like = like
    proxy.once(Fault("status", status=503, code="ServerBusy", retry_after=7), "PUT", "/x")
    status, headers, body = ask("PUT", body=CONTENT)
    assert (status, headers["retry-after"], puts) == (503, "7", [])
    name = "x-ms-error-code" if like == "azure" else "x-error-code"
    assert headers[name] == "ServerBusy"
    assert (b"<Code>ServerBusy</Code>" if like == "azure" else b'{"error"') in body
    proxy.once(Fault("status", status=500, code="OperationTimedOut"), "HEAD", "/x")
    assert ask("HEAD")[::2] == (500, b"")
    proxy.once(401, "GET", "/x")
    assert ask()[1]["www-authenticate"].startswith("Bearer")


def test_a_retry_may_be_asked_for_at_a_date(proxy: FaultProxy, ask: Ask) -> None:
    proxy.once(Fault("status", status=429, retry_after=60, as_date=True), "GET", "/x")
    status, headers, _ = ask()
    assert status == 429
    assert 0 < parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time() <= 60


def test_bodies_are_delayed_stalled_and_slowed_but_whole(
    proxy: FaultProxy, ask: Ask, puts: list[bytes]
) -> None:
    began = time.monotonic()
    for fault in (Fault("delay", seconds=0.1), Fault("stall", seconds=0.1)):
        proxy.once(fault, "GET", "/x")
        assert ask()[2] == CONTENT
    proxy.once(Fault("slow", bytes_per_s=10 << 20), "PUT", "/x")
    ask("PUT", body=CONTENT)
    assert puts == [CONTENT]
    assert time.monotonic() - began >= 0.3  # never sooner, however fast the machine


def test_something_else_may_happen_first(proxy: FaultProxy, ask: Ask, puts: list[bytes]) -> None:
    proxy.once(Fault("before", action=lambda: puts.append(b"first")), "PUT", "/x")
    ask("PUT", body=b"second")
    assert puts == [b"first", b"second"]


def test_a_rule_chooses_by_method_target_and_number(proxy: FaultProxy, ask: Ask) -> None:
    proxy.once(500, "GET", r"/x\?a=", nth=2, times=2)
    proxy.rule = lambda method, target: 403 if method == "HEAD" else None
    found = [ask(target="/x?a=1")[0] for _ in range(4)]
    assert found == [200, 500, 500, 200]
    assert (ask(target="/y")[0], ask("HEAD")[0]) == (200, 403)
    assert [hit.fault for hit in proxy.log] == ["", "500", "500", "", "", "403"]
    proxy.clear()
    assert ask("HEAD")[0] == 200


def test_chances_are_the_same_for_a_seed_whatever_the_order() -> None:
    faults = [Fault("reset"), Fault("short"), Fault("flip-request"), Fault("status", status=503)]
    requests = [Asked("GET", f"/{n}?sig=x{n}", "bytes=0-9") for n in range(400)]

    def found(seed: str, order: list[Asked]) -> dict[str, str]:
        chances = Chances(seed, 0.25, faults)
        return {asked.target: str(chances.take(asked)) for asked in order}

    assert found("1", requests) == found("1", requests[::-1])
    assert found("1", requests) != found("2", requests)
    spoiled = [fault for fault in found("1", requests).values() if fault != "None"]
    assert set(spoiled) == {"reset", "short", "503"}  # a GET has no body to flip
    assert 60 < len(spoiled) < 140
    again = Chances("1", 0.5, faults)
    assert len({str(again.take(requests[0])) for _ in range(40)}) == 4


def test_many_clients_at_once_get_what_they_asked_for(proxy: FaultProxy) -> None:
    proxy.chances = Chances("3", 0.2, [Fault("reset"), Fault("cut"), Fault("lost")])
    found: list[str] = []

    def fetch(number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
        for again in range(5):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", f"/{number}/{again}")
                found.append(hashlib.sha256(connection.getresponse().read()).hexdigest())
                continue
            connection.close()
        connection.close()

    threads = [Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {hashlib.sha256(CONTENT).hexdigest()}
    assert len(found) == 40 - sum(bool(hit.fault) for hit in proxy.log)
