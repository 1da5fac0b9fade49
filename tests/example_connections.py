"""A connection that drops: what passes between a client and a server on this machine, cut off in the middle.

A header passes whole or not at all: Python's own HTTP server and client take a cut header for a complete one. The
server then stores an empty object, which a store that follows the protocol never does; the client hands over an empty
body.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BEGINNINGS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ", b"HTTP/1.")


class DroppingProxy:
    """Passes connections on to a server; some break off after as many bytes as the seed says, in either direction.

    Args:
        server: host and port.
        share: of connections that will be dropped.
        within: bytes after which a dropped connection breaks at the latest.
    """

    def __init__(self, server: tuple[str, int], seed: int, share: float, within: int) -> None:
        self.server, self.share, self.within = server, share, within
        self.dice = random.Random(seed)
        self.dropped = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        # A thread that waits in accept() wakes only from this.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                limit = self.dice.randrange(self.within) if self.dice.random() < self.share else None
                try:
                    server = socket.create_connection(self.server)
                except OSError:
                    client.close()
                    continue
                _Connection(self, client, server, limit)


class _Connection:
    """Two directions that share one allowance of bytes."""

    def __init__(self, proxy: DroppingProxy, client: socket.socket, server: socket.socket, limit: int | None) -> None:
        self.proxy, self.ends, self.left = proxy, (client, server), limit
        self.lock = threading.Lock()
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                allowed = self._allowance(data)
                target.sendall(data[:allowed])
                if allowed < len(data):
                    break
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _allowance(self, data: bytes) -> int:
        header = data.find(b"\r\n\r\n") + 4 if data.startswith(BEGINNINGS) else 0
        with self.lock:
            if self.left is None:
                return len(data)
            allowed = min(len(data), self.left)
            if allowed < header:
                allowed = 0
            self.left -= allowed
            if allowed < len(data):
                self.proxy.dropped += 1
            return allowed


@contextmanager
def dropping(bucket: str, seed: int, share: float = 1.0, within: int = 200_000) -> Iterator[tuple[str, DroppingProxy]]:
    """Yields the URI of a bucket through a proxy that drops connections, and the proxy."""
    address = bucket.partition("endpoint_override=")[2].partition("&")[0]
    host, _, port = address.partition(":")
    proxy = DroppingProxy((host, int(port)), seed, share, within)
    try:
        yield bucket.replace(address, proxy.address), proxy
    finally:
        proxy.close()
