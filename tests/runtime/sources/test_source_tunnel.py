"""Servers with a valid certificate that would lead FFmpeg to another one, which nobody checks."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from certificates import Authority

from lrdan_edge.errors import SourceError, SourceRefusedError
from lrdan_edge.runtime.sources import connect, open_source
from lrdan_edge.runtime.sources.native import OPTIONS, quiet
from lrdan_edge.runtime.sources.tls import Trust


@contextmanager
def serving(answer: Callable[[bytes], bytes], certificate: Path | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives one answer per connection; yields its port, and a list of the requests."""
    requests: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        with suppress(OSError):
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                if request := connection.recv(65536):
                    requests.append(request)
                    connection.sendall(answer(request))
                    connection.recv(1)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], requests
        listener.shutdown(socket.SHUT_RDWR)


def body(text: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    )


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    authority = Authority(tmp_path)
    return authority.path, authority.issue("camera", "127.0.0.1")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_addresses_in_a_playlist_are_not_opened(certificate: tuple[Path, Path], scheme: str) -> None:
    ca_file, own = certificate
    with serving(lambda _: b"") as (other, asked):
        lines = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{scheme}://127.0.0.1:{other}/part.ts\n#EXT-X-ENDLIST\n"
        with (
            serving(lambda _: body(lines), own) as (port, _),
            pytest.raises(SourceRefusedError, match="is a playlist, whose addresses nobody checks"),
        ):
            open_source(f"https://127.0.0.1:{port}/live.m3u8", ca_file=ca_file, open_timeout_s=5)
    assert asked == []


@pytest.mark.parametrize(
    ("scheme", "status"),
    [
        ("https", "HTTP/2 302 Found"),
        ("https", "HTTP/1.1   307 Moved"),
        ("https", f"{'H' * 300} 0302"),
        ("rtsps", "RTSP/1.0 302 Moved"),
        ("rtsps", "$\0\0\3abcRTSP/1.0 302 Moved"),
        ("rtsps", "\r\nRTSP/1.0  0301 Moved"),
    ],
)
def test_a_redirect_is_refused_however_it_is_written(certificate: tuple[Path, Path], scheme: str, status: str) -> None:
    ca_file, own = certificate
    with serving(lambda _: b"") as (other, asked):
        head = f"{status}\r\nCSeq: 1\r\nLocation: {scheme[:-1]}://127.0.0.1:{other}/x\r\nContent-Length: 0\r\n\r\n"
        with serving(lambda _: head.encode(), own) as (port, requests), pytest.raises(SourceRefusedError, match="redirects"):
            open_source(f"{scheme}://127.0.0.1:{port}/x", ca_file=ca_file, open_timeout_s=5)
    assert asked == []
    assert len(requests) == 1


def test_connecting_again_and_again_leaves_the_environment_as_it_was(certificate: tuple[Path, Path]) -> None:
    """What is appended at each attempt would fill the memory of a process that waits for a camera for days."""
    ca_file, own = certificate
    with serving(lambda _: b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n", own) as (port, requests), quiet:
        before = os.environ[OPTIONS]
        opener = connect.stream(f"rtsps://127.0.0.1:{port}/x", 5, 5, str(ca_file))
        for _ in range(3):
            with pytest.raises(SourceError):
                opener()
        assert os.environ[OPTIONS] == before
    assert len(requests) == 3


def test_only_streams_with_tls_refuse_playlists(certificate: tuple[Path, Path]) -> None:
    assert connect.tunnel_to("http://127.0.0.1/live.m3u8", Trust(), 1) is None
    with serving(lambda _: b"", certificate[1]) as (port, _):
        for scheme, word in (("https", "format_whitelist;"), ("rtsps", "rtsp_transport;tcp")):
            tunnel = connect.tunnel_to(f"{scheme}://127.0.0.1:{port}/x", Trust(str(certificate[0])), 5)
            assert tunnel is not None
            tunnel.close()
            assert word in tunnel.options


def test_only_this_user_may_use_the_tunnel(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: b"HTTP/1.0 200 OK\r\n\r\nvideo", certificate[1]) as (port, requests):
        tunnel = connect.tunnel_to(f"https://127.0.0.1:{port}/x", Trust(str(certificate[0])), 5)
        assert tunnel is not None
        local = int(tunnel.address.rpartition(":")[2].partition("/")[0])
        for user, answer in ((os.getuid() + 1, b""), (os.getuid(), b"HTTP/1.0 200 OK")):
            monkeypatch.setattr("lrdan_edge.runtime.sources.tls.os.getuid", lambda user=user: user)
            with socket.create_connection(("127.0.0.1", local), 5) as one:
                got = b""
                with suppress(ConnectionError):  # it is refused before it has asked
                    one.sendall(b"GET /x HTTP/1.0\r\n\r\n")
                    got = one.recv(15)
            assert got == answer
        tunnel.close()
    assert len(requests) == 1
