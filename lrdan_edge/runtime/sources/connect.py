"""Opens network streams, and finds out why a stream cannot be opened."""

import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from lrdan_edge.errors import SourceAddressError, SourceError, SourceLoginError, SourceRefusedError, SourceTimeoutError
from lrdan_edge.runtime.sources import ffmpeg_log
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.native import VideoCapture, open_ffmpeg
from lrdan_edge.runtime.sources.redact import redact
from lrdan_edge.runtime.sources.tls import PLAIN, Trust, Tunnel

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PROBE_S = 2.0
_CHECK_NETWORK = "check the address and the network"


def stream_job(url: str, open_timeout_s: float, read_timeout_s: float, trust: Trust) -> CaptureJob:
    """The capture job of an RTSP or HTTP stream; see `stream`.

    Raises:
        SourceAddressError: The address names no host, or no valid port.
    """
    _peer(url)
    arguments = (url, open_timeout_s, read_timeout_s, trust.ca_file, trust.insecure)
    return CaptureJob(__name__, stream.__name__, arguments, read_timeout_s)


def stream(
    url: str, open_timeout_s: float, read_timeout_s: float, ca_file: str | None = None, insecure: bool = False
) -> Callable[[], VideoCapture]:
    """The opener for an RTSP or HTTP stream, called in the capture process.

    Args:
        url: The address, including credentials.
        open_timeout_s: Longest time for connecting.
        read_timeout_s: Longest time for one frame.
        ca_file: See `Trust`.
        insecure: See `Trust`.

    Raises:
        SourceAddressError: The address names no host, or no valid port.
    """
    host, port = _peer(url)
    trust = Trust(ca_file, insecure)
    tunnels: list[Tunnel] = []

    def opener() -> VideoCapture:
        started = time.monotonic()
        while tunnels:
            tunnels.pop().close()
        target, options = url, ""
        if tunnel := tunnel_to(url, trust, open_timeout_s):
            tunnels.append(tunnel)
            target, options = tunnel.address, tunnel.options
        ffmpeg_log.new_text()
        capture = open_ffmpeg(target, open_timeout_s, read_timeout_s, options)
        if capture is not None:
            return capture
        text = ffmpeg_log.new_text()
        if status := ffmpeg_log.refused_login(text):
            raise _login_error(url, f"{host}:{port}", status)
        if ffmpeg_log.is_other_format(text):
            raise SourceRefusedError(
                f"{redact(url)} is a playlist, whose addresses nobody checks", "give the address of the video"
            )
        if tunnel is not None and tunnel.problem is not None:
            raise tunnel.problem
        if time.monotonic() - started >= open_timeout_s:
            raise SourceTimeoutError(f"{redact(url)} sends no video within {open_timeout_s:g} s", _CHECK_NETWORK)
        raise _connection_error(f"{redact(url)} cannot be opened", host, port)

    return opener


def tunnel_to(url: str, trust: Trust, open_timeout_s: float) -> Tunnel | None:
    """The tunnel to a server whose certificate is checked; None for an address without TLS.

    Raises:
        SourceError: See `Tunnel`; also if the host cannot be reached.
    """
    if urlsplit(url).scheme.lower() not in PLAIN:
        return None
    host, port = _peer(url)
    try:
        return Tunnel(url, host, port, trust, open_timeout_s)
    except OSError as error:
        raise _unreachable(f"{redact(url)} cannot be opened", host, port, error) from error


def _peer(url: str) -> tuple[str, int]:
    """Host and port of an address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise SourceAddressError(
            f"{redact(url)} names no valid host and port",
            "write rtsp://host:554/path, with special characters of user name and password percent-encoded",
        )
    return host, port or _PORTS[parts.scheme.lower()]


def _login_error(url: str, server: str, status: str) -> SourceLoginError:
    if "@" in urlsplit(url).netloc:
        fix = "check user name and password; some cameras lock an account after a few wrong ones"
        return SourceLoginError(f"{redact(url)}: {server} refuses the login ({status})", fix)
    example = f"{urlsplit(url).scheme}://{{CAMERA_USER}}:{{CAMERA_PASSWORD}}@{server}/…"
    fix = "write {example}, and set both in the environment"
    return SourceLoginError(f"{redact(url)}: {server} asks for a login ({status})", fix, example=example)


def _connection_error(problem: str, host: str, port: int) -> SourceError:
    """The error for a stream that cannot be opened: connects to its host to find out why."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_S).close()
    except OSError as error:
        return _unreachable(problem, host, port, error)
    fix = "check path, user name and password"
    return SourceRefusedError(f"{problem}: {host}:{port} answers, but sends no video at this address", fix)


def _unreachable(problem: str, host: str, port: int, error: OSError) -> SourceError:
    if isinstance(error, socket.gaierror):
        return SourceAddressError(f"{problem}: the host name {host} is not known", _CHECK_NETWORK)
    if isinstance(error, ConnectionRefusedError):
        fix = "check the port, and that the camera or server runs"
        return SourceRefusedError(f"{problem}: nothing listens on {host}:{port}", fix)
    if isinstance(error, TimeoutError):
        return SourceTimeoutError(f"{problem}: {host}:{port} does not answer", _CHECK_NETWORK)
    return SourceTimeoutError(f"{problem}: {host}:{port} cannot be reached ({error.strerror})", _CHECK_NETWORK)
