"""Opening streams, and saying in one line why one does not open."""

import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.capture import Job
from lrdan_edge.runtime.sources.native import Capture, open_ffmpeg
from lrdan_edge.runtime.sources.redact import scrubbed

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PROBE_S = 2.0


def stream_job(url: str, open_timeout_s: float, read_timeout_s: float) -> Job:
    """What the capture process does for an RTSP or HTTP stream; see `stream`.

    Raises:
        SourceError: The address names no host, or no valid port.
    """
    _peer(url)
    return Job(__name__, stream.__name__, (url, open_timeout_s, read_timeout_s), read_timeout_s)


def stream(url: str, open_timeout_s: float, read_timeout_s: float) -> Callable[[], Capture]:
    """The opener for an RTSP or HTTP stream.

    Args:
        url: The address, credentials included.
        open_timeout_s: How long connecting may take.
        read_timeout_s: How long one frame may take.

    Raises:
        SourceError: The address names no host, or no valid port.
    """
    host, port = _peer(url)

    def opener() -> Capture:
        started = time.monotonic()
        capture = open_ffmpeg(url, open_timeout_s, read_timeout_s)
        if capture is not None:
            return capture
        if time.monotonic() - started >= open_timeout_s:
            raise SourceError(f"{scrubbed(url)} sends no video within {open_timeout_s:g} s: check the address and the network")
        raise SourceError(f"{scrubbed(url)} cannot be opened: {_obstacle(host, port)}")

    return opener


def _peer(url: str) -> tuple[str, int]:
    """Host and port of an address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise SourceError(
            f"{scrubbed(url)} names no valid host and port: write rtsp://host:554/path, "
            "with special characters of user name and password percent-encoded"
        )
    return host, port or _PORTS[parts.scheme.lower()]


def _obstacle(host: str, port: int) -> str:
    """What stands between us and the peer, in words with the mend."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_S).close()
    except socket.gaierror:
        return f"the host name {host} is not known: check the address and the network"
    except ConnectionRefusedError:
        return f"nothing listens on {host}:{port}: check the port, and that the camera or server runs"
    except TimeoutError:
        return f"{host}:{port} does not answer: check the address and the network"
    except OSError as error:
        return f"{host}:{port} cannot be reached ({error.strerror}): check the address and the network"
    return f"{host}:{port} answers, but sends no video at this address: check path, user name and password"
