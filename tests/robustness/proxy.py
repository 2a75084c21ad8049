"""A proxy between a client and its server on this host, which a test cuts at a moment of its choice."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes bytes on, until the client sends what a pattern matches; then no connection is left.

    Attributes:
        cuts: How often it was cut.
        on_sent: Sees what the client sends, before the server does.
    """

    def __init__(self, server_port: int) -> None:
        self._target = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._pattern: re.Pattern[bytes] | None = None
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self.on_sent: Callable[[bytes], None] = lambda data: None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, pattern: str) -> None:
        """Cuts once, before the server sees it."""
        self._pattern = re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL)

    def cut(self) -> None:
        """Ends each connection, as a server that crashes does."""
        with self._lock:
            self.cuts += 1
            connections, self._open = self._open, []
        for connection in connections:
            with suppress(OSError):  # reset, without a word of the protocol
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def close(self) -> None:
        """No more connections."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._pass_on, args=(one, other, one is client), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if is_client:
                    self.on_sent(data)
                if is_client and self._pattern and self._pattern.search(data):
                    self._pattern = None
                    self.cut()
                target.sendall(data)
        for connection in (source, target):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(server_port: int) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    running = Proxy(server_port)
    try:
        yield running
    finally:
        running.close()
