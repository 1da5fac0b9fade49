"""A proxy that fails before or after the server has committed makes no run, experiment or metric twice."""

import http.client
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ptune.home import Home
from ptune.track.writer import Pace, projection
from tests.track.invariants import check_runs
from tests.track.live import Server, sweep_of_events

PACE = Pace(between=0.05, sample=1.0, first_pause=0.02, longest_pause=0.1, at_end=120)


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, and fails a share of those that write in one way.

    Args:
        fault: "500" and "429" answer instead of the server; "reset" lets the server commit, then breaks the connection.
    """

    daemon_threads = True

    def __init__(self, server_port: int, fault: str, share: float = 0.4) -> None:
        super().__init__(("127.0.0.1", 0), _Pass)
        self.server_port_behind, self.fault, self.share = server_port, fault, share
        self.random, self.faults = random.Random(0), 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are the purpose."""


class _Pass(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self.server
        fault = self.command != "GET" and proxy.random.random() < proxy.share
        proxy.faults += fault
        if fault and proxy.fault in {"500", "429"}:
            self.send_response(int(proxy.fault))
            if proxy.fault == "429":
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        behind = http.client.HTTPConnection("127.0.0.1", proxy.server_port_behind, timeout=30)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        if fault:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Closing the socket alone leaves it open for the handler's files; closing its number resets it.
            self.close_connection = True
            os.close(self.connection.detach())
            return
        self.send_response(answer.status)
        for name in ("Content-Type",):
            self.send_header(name, answer.headers.get(name, "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("fault", ["500", "429", "reset"] if os.environ.get("PTUNE_FULL") else ["429", "reset"])
def test_a_faulty_connection_makes_nothing_twice(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    home, study = Home.open(tmp_path / "home"), f"fault-{fault}"
    proxy = FaultyProxy(server.port, fault)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        with projection(home, study, PACE) as poke:
            sweep_of_events(home, study, poke, epoch_seconds=0.002, trials=4)
    finally:
        proxy.shutdown()
        proxy.server_close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    print(f"{proxy.faults} faults")
    assert proxy.faults >= 3
    assert check_runs(home, study) > 200
