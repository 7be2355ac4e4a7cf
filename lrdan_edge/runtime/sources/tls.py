"""TLS for network streams: this end checks the server's certificate, and FFmpeg reads plain text from a port of this machine.

FFmpeg's own check depends on its version and TLS library: some do not compare the host name. So the connection that
was checked is the one that FFmpeg reads.
"""

import contextlib
import os
import re
import select
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lrdan_edge.errors import SourceAddressError, SourceCertificateError, SourceError, SourceRefusedError, SourceTimeoutError
from lrdan_edge.runtime.sources.redact import redact

PLAIN = {"https": "http", "rtsps": "rtsp"}
"""The schemes with TLS, and those that FFmpeg reads through the tunnel."""

_PART = 1 << 16
_LONGEST_REQUEST = 1 << 16
_FIRST_LINE = 8192  # FFmpeg looks at the first 4096 bytes of a line
# As FFmpeg reads them: any word, then the status. Between RTSP's answers come packets of the video.
_REDIRECT = {
    "https": re.compile(rb"\A\S*[ \t\v\f\r]+\+?0*3\d\d"),
    "rtsps": re.compile(rb"RTSP/\S{0,32}\s{1,32}\+?0{0,32}3\d\d"),
}
_LONGEST_STATUS = 128  # bytes that the second one matches, at most
# A playlist (HLS, DASH, SDP and others) would make FFmpeg open the addresses in it, which nobody checks. FFmpeg's names of the
# formats that are videos or images themselves.
_CONTAINERS = (
    "mpjpeg,mjpeg,mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,mxf,nut,dv,gxf,rm,wtv,h263,h264,hevc,vvc,obu,av1,"
    "ivf,vc1,gif,apng,yuv4mpegpipe,jpeg_pipe,png_pipe,bmp_pipe,tiff_pipe,webp_pipe,pgm_pipe,ppm_pipe"
)
_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates of servers are accepted.

    Attributes:
        ca_file: PEM file with the certificates of the authorities to trust, or the server's own; None: those of the system.
        insecure: Check no certificate.
    """

    ca_file: str | None = None
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """The settings of a connection.

        Raises:
            SourceAddressError: `ca_file` cannot be read, or holds no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise SourceAddressError(
                f"the certificates in {self.ca_file} cannot be read ({reason})", "check {ca_file}"
            ) from error
        if self.ca_file is not None:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a camera's own certificate, signed by an authority or not
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Tunnel:
    """Carries one address's connections: plain on a port of this machine, in TLS to the server. Redirects are refused.

    A redirect would lead FFmpeg past the tunnel, to a server that nobody checked.
    """

    def __init__(self, url: str, host: str, port: int, trust: Trust, timeout_s: float) -> None:
        """Connect to the server and check its certificate.

        Args:
            url: The address, ``https://`` or ``rtsps://``, with credentials.
            host: Its host.
            port: Its port.
            trust: Which certificates are accepted.
            timeout_s: Longest time for connecting.

        Raises:
            SourceCertificateError: The certificate is not valid, or is another host's.
            SourceRefusedError: What listens there does not speak TLS.
            SourceTimeoutError: The server does not answer within `timeout_s`.
            SourceAddressError: The file of `trust` cannot be read.
            OSError: The host cannot be reached.
        """
        self._shown, self._parts = redact(url), urlsplit(url)
        self._scheme = self._parts.scheme.lower()
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._context = trust.context()
        self.problem: SourceError | None = None
        """Why a later connection failed, or None."""
        self._lock, self._closed = threading.Lock(), False
        self._open: set[socket.socket] = set()
        first = self._connect()
        try:
            self._listener = socket.create_server(("127.0.0.1", 0))
        except OSError:
            first.close()
            raise
        self._local = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._keep(self._listener)
        self._keep(first)
        threading.Thread(target=self._serve, args=(first,), name="lrdan-tunnel", daemon=True).start()

    @property
    def address(self) -> str:
        """The address for FFmpeg: the same credentials, path and query, on this machine."""
        parts = self._parts
        user, at, _ = parts.netloc.rpartition("@")
        return SplitResult(PLAIN[self._scheme], f"{user}{at}{self._local}", parts.path, parts.query, "").geturl()

    @property
    def options(self) -> str:
        """FFmpeg's options for `address`, without which it would read past the tunnel: over UDP, or what a playlist names."""
        return "rtsp_transport;tcp" if self._scheme == "rtsps" else f"format_whitelist;{_CONTAINERS}"

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), timeout=self._timeout_s)
        try:
            return self._context.wrap_socket(plain, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise _invalid(f"{self._shown}: the certificate of {self._host}:{self._port}", error) from error
        except ssl.SSLError as error:
            problem = f"{self._shown}: {self._host}:{self._port} does not speak TLS ({error.reason or error.strerror})"
            raise SourceRefusedError(problem, "check the port") from error
        except TimeoutError as error:
            problem = f"{self._shown}: {self._host}:{self._port} sends no certificate within {self._timeout_s:g} s"
            raise SourceTimeoutError(problem, "check the address and the network") from error
        finally:
            plain.close()  # without effect once wrapped

    def _serve(self, first: ssl.SSLSocket) -> None:
        waiting: ssl.SSLSocket | None = first
        while True:
            try:
                local, peer = self._listener.accept()
            except OSError:
                if waiting is not None:
                    waiting.close()
                return  # closed, or too many open files
            if not _is_own(peer, self._listener.getsockname()):
                local.close()
                continue
            self._keep(local)
            remote, waiting = waiting, None
            threading.Thread(target=self._carry, args=(local, remote), name="lrdan-tunnel", daemon=True).start()

    def _carry(self, local: socket.socket, remote: ssl.SSLSocket | None) -> None:
        """Copy both ways until one side ends."""
        try:
            if remote is None:
                remote = self._connect()
                self._keep(remote)
            self._copy(local, remote)
        except SourceError as error:
            self.problem = error
        except (OSError, ValueError):  # ValueError: a socket was closed meanwhile
            pass
        finally:
            for one in (local, remote):
                if one is not None:
                    with self._lock:
                        self._open.discard(one)
                    one.close()

    def _copy(self, local: socket.socket, remote: ssl.SSLSocket) -> None:
        # One thread for both ways: Python does not say that an SSL socket may be read and written at the same time.
        poll = select.poll()
        poll.register(local, select.POLLIN)
        poll.register(remote, select.POLLIN)
        request, answer, status = b"", b"", _Status(self._scheme)
        while True:
            ready = [] if remote.pending() else [number for number, _ in poll.poll()]
            if local.fileno() in ready:
                if not (part := local.recv(_PART)):
                    return
                request += part
                if (ready_to_send := self._request(request)) is not None:
                    remote.settimeout(self._timeout_s)
                    remote.sendall(ready_to_send)
                    request = b""
            remote.settimeout(0)
            try:
                part = remote.recv(_PART)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            answer += part
            if status.is_redirect(answer):
                raise self._redirected(answer)
            if part and status.is_incomplete(answer):
                continue
            local.sendall(answer)
            answer = b""
            if not part:
                return

    def _request(self, data: bytes) -> bytes | None:
        """What to send to the server: HTTP with the server's own name in place of the tunnel's; None if the request is not complete."""
        if self._scheme != "https":
            return data
        if b"\r\n\r\n" not in data and len(data) < _LONGEST_REQUEST:
            return None
        host = self._parts.netloc.rpartition("@")[2]
        return data.replace(f"\r\nHost: {self._local}\r\n".encode(), f"\r\nHost: {host}\r\n".encode(), 1)

    def _redirected(self, answer: bytes) -> SourceRefusedError:
        found = re.search(rb"(?i)\r\nlocation: *([^\r\n]*)", answer)
        where = f" to {redact(found[1].decode('utf-8', 'replace'))}" if found else ""
        return SourceRefusedError(f"{self._shown} redirects{where}", "give the address that it leads to")

    def _keep(self, one: socket.socket) -> None:
        with self._lock:
            self._open.add(one)
            closed = self._closed
        if closed:
            _end(one)

    def close(self) -> None:
        """End all connections; may be called again, from any thread."""
        with self._lock:
            self._closed, sockets = True, list(self._open)
        for one in sockets:
            _end(one)
        self._listener.close()


class _Status:
    """Finds redirects among a server's answers on one connection."""

    def __init__(self, scheme: str) -> None:
        self._scheme, self._redirect, self._before, self._known = scheme, _REDIRECT[scheme], b"", False

    def is_incomplete(self, answer: bytes) -> bool:
        """Whether the answer may still become a redirect: of HTTP there is one on a connection, and its first line tells."""
        if self._scheme == "rtsps" or self._known:
            return False
        self._known = b"\n" in answer or len(answer) > _FIRST_LINE
        return not self._known

    def is_redirect(self, answer: bytes) -> bool:
        """Whether there is one in what came since the last call that `is_incomplete` did not hold back."""
        if self._scheme == "https":
            return not self._known and self._redirect.search(answer) is not None
        text = self._before + answer
        self._before = text[-_LONGEST_STATUS:]
        return self._redirect.search(text) is not None


def _is_own(peer: tuple[str, int], here: tuple[str, int]) -> bool:
    """Whether a connection on this machine is of this process's user: others could fill the camera's and this process's connections.

    Args:
        peer: Its other end.
        here: The end that accepted it.
    """
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:  # hidden here: nothing can be known
        return True
    ends = [_hexadecimal(peer), _hexadecimal(here)]
    return any(fields[1:3] == ends and int(fields[7]) == os.getuid() for fields in map(str.split, lines))


def _hexadecimal(end: tuple[str, int]) -> str:
    """Address and port as in ``/proc/net/tcp``: the address in the machine's order of bytes."""
    return f"{int.from_bytes(socket.inet_aton(end[0]), sys.byteorder):08X}:{end[1]:04X}"


def _end(one: socket.socket) -> None:
    """Wake the thread that waits for a socket; it closes the socket."""
    with contextlib.suppress(OSError, ValueError):
        # An SSL socket's own shutdown would drop its TLS state while the other thread reads.
        socket.socket.shutdown(one, socket.SHUT_RDWR)


def _invalid(what: str, error: ssl.SSLCertVerificationError) -> SourceCertificateError:
    problem = f"{what} is not valid ({error.verify_message.rstrip('.')})"
    if error.verify_code in (_EXPIRED, _NOT_YET):
        fix = "renew it, and check the clocks of this machine and of the server"
    elif error.verify_code in _OTHER_NAME:
        fix = "use a name that it was issued for, or issue one for this name"
    else:
        fix = "give this certificate, or its authority's, with {ca_file}"
    return SourceCertificateError(problem, fix + "; {insecure:on} turns the check off")
