"""Channels to a controller: a program, HTTP, TCP, a serial line. Each call returns within a time limit, or raises OSError."""

import base64
import os
import queue
import select
import signal
import socket
import subprocess
import termios
import threading
import time
import tty
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPMessage
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from lrdan_edge.runtime.sinks.records import as_line
from lrdan_edge.runtime.sinks.template import Template

_HTTP_ATTEMPTS = 3
_HTTP_PAUSE_S = 0.1
_NO_ANSWER = "no answer in time"
_MOST_READS = 16  # of what a TCP peer says: one that says more must not keep the line waiting


class Channel(Protocol):
    """Delivers one message at a time.

    Attributes:
        name: What it leads to, without secrets.
    """

    name: str

    def send(self, record: Mapping[str, object], timeout_s: float) -> None:
        """Deliver an object of ``verdicts.jsonl`` within `timeout_s`, or raise OSError."""
        ...

    def close(self) -> None:
        """Close it; may be called again."""
        ...


class Command:
    """Runs a program without a shell; it must exit with 0. When its time is over, it is killed with what it has started."""

    def __init__(self, name: str, words: list[Template]) -> None:
        """Keep the program's name and the words of its command line."""
        self.name, self._words = name, words

    def send(self, record: Mapping[str, object], timeout_s: float) -> None:
        """See `Channel`."""
        process = subprocess.Popen(
            [word.argument(record) for word in self._words],
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output may be the run's verdicts
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise OSError(f"it did not end within {timeout_s:g} s, and was killed") from None
        if code:
            raise OSError(f"exit code {code}" if code > 0 else f"it was ended by signal {-code}")

    def close(self) -> None:
        """Do nothing: no program runs between calls."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET, which delivers nothing."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Follow none."""


class HttpPost:
    """Posts the object as JSON; any 2xx answer counts as delivered. Without one, or after 5xx, it tries three times within the limit."""

    def __init__(self, name: str, url: str) -> None:
        """Keep the address; user and password in it become an Authorization header."""
        parts = urlsplit(url)
        self.name, self._headers = name, {"Content-Type": "application/json"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._posting: threading.Thread | None = None

    def send(self, record: Mapping[str, object], timeout_s: float) -> None:
        """See `Channel`."""
        end = time.monotonic() + timeout_s
        if self._posting is not None:
            self._posting.join(timeout_s)
            if self._posting.is_alive():
                raise TimeoutError("an earlier request has still no answer")
        request = urllib.request.Request(self._url, as_line(dict(record)).rstrip(), self._headers, method="POST")
        # In a thread: a socket's time-out ends neither the look-up of a name nor an answer that comes byte by byte.
        results: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._posting = threading.Thread(target=lambda: results.put(self._post(request, end)), name="lrdan-post", daemon=True)
        self._posting.start()
        try:
            problem = results.get(timeout=max(0.01, end - time.monotonic()) + _HTTP_PAUSE_S)
        except queue.Empty:
            problem = _NO_ANSWER
        if problem is not None:
            raise OSError(problem)

    def _post(self, request: urllib.request.Request, end: float) -> str | None:
        """Why the request was not accepted, or None. Nothing of an error that may hold the address, and its secrets."""
        for attempt in range(_HTTP_ATTEMPTS):
            last = attempt == _HTTP_ATTEMPTS - 1
            try:
                with self._opener.open(request, timeout=max(0.01, end - time.monotonic())):
                    return None
            except urllib.error.HTTPError as error:
                error.close()
                if last or error.code < 500 or time.monotonic() + _HTTP_PAUSE_S >= end:
                    return f"HTTP status {error.code}"
            except (OSError, HTTPException, ValueError) as error:
                if last or time.monotonic() + _HTTP_PAUSE_S >= end:
                    reason = getattr(error, "reason", error)
                    return _NO_ANSWER if isinstance(reason, TimeoutError) else _words(reason)
            time.sleep(_HTTP_PAUSE_S)
        return None

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""


def _words(error: object) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)


class TcpLine:
    """Sends a text over a TCP connection that stays open, and is opened again if the peer has closed it."""

    def __init__(self, name: str, host: str, port: int, text: Template) -> None:
        """Keep the address; the first message connects."""
        self.name, self._address, self._text = name, (host, port), text
        self._socket: socket.socket | None = None

    def send(self, record: Mapping[str, object], timeout_s: float) -> None:
        """See `Channel`. What has left this machine counts as delivered."""
        end = time.monotonic() + timeout_s
        try:
            connection = self._connected(timeout_s)
            connection.settimeout(max(0.01, end - time.monotonic()))
            connection.sendall(self._text.fill(record).encode())
        except OSError:
            self.close()
            raise

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._socket is not None:
            self._socket.setblocking(False)
            try:
                for _ in range(_MOST_READS):
                    if not self._socket.recv(1 << 16):  # what the peer sends is discarded
                        self.close()
                        break
                else:
                    return self._socket
            except BlockingIOError:
                return self._socket
            except OSError:
                self.close()
        self._socket = socket.create_connection(self._address, timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * timeout_s))
        return self._socket

    def close(self) -> None:
        """See `Channel`."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()


class SerialLine:
    """Sends a text over a serial port, which is opened again after an error. There is no flow control."""

    def __init__(self, name: str, path: str, speed: int, mode: str, text: Template) -> None:
        """Keep the settings; the first message opens the port.

        Args:
            name: See `Channel`.
            path: The device.
            speed: A constant of `termios`, such as ``termios.B9600``.
            mode: Data bits, parity (N, E, O) and stop bits: ``8N1``.
            text: What to send.
        """
        self.name, self._path, self._speed, self._mode, self._text = name, path, speed, mode, text
        self._descriptor: int | None = None

    def send(self, record: Mapping[str, object], timeout_s: float) -> None:
        """See `Channel`. What the driver has taken counts as delivered."""
        end, data = time.monotonic() + timeout_s, self._text.fill(record).encode()
        try:
            descriptor = self._open()
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            while data:
                if not poll.poll(max(0, round(1000 * (end - time.monotonic())))):
                    raise TimeoutError(f"the port has taken nothing for {timeout_s:g} s")
                with suppress(BlockingIOError):
                    data = data[os.write(descriptor, data) :]
        except OSError:
            self.close()
            raise

    def _open(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        descriptor = os.open(self._path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._descriptor = descriptor
        try:
            tty.setraw(descriptor)
            settings = termios.tcgetattr(descriptor)
            control = settings[2] & ~(termios.CSIZE | termios.PARENB | termios.PARODD | termios.CSTOPB | termios.CRTSCTS)
            control |= termios.CLOCAL | termios.CREAD | (termios.CS7 if self._mode[0] == "7" else termios.CS8)
            control |= {"N": 0, "E": termios.PARENB, "O": termios.PARENB | termios.PARODD}[self._mode[1]]
            settings[2] = control | (termios.CSTOPB if self._mode[2] == "2" else 0)
            settings[0] &= ~(termios.IXON | termios.IXOFF)
            settings[4] = settings[5] = self._speed
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        except termios.error as error:
            raise OSError(*error.args) from error
        return descriptor

    def close(self) -> None:
        """See `Channel`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
