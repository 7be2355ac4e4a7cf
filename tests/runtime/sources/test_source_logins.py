"""Refused logins, counted by real servers: cameras lock accounts after some wrong passwords."""

import base64
import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import Authority
from rtsp_servers import RtspServer

from lrdan_edge.errors import SourceLoginError, SourceRefusedError
from lrdan_edge.runtime.sources import live, open_source
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.reader import FrameMessage, LostMessage, OpenedMessage

Camera = Any  # conftest's HttpCamera


class Counter:
    """Forwards a port to an RTSP server, and notes when a request with credentials came."""

    def __init__(self, port: int) -> None:
        self._port, self.logins = port, list[float]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, target, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._copy, args=(source, target, counts), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while part := source.recv(1 << 16):
                self.logins += [time.monotonic()] * (counts and b"Authorization:" in part)
                target.sendall(part)
        except OSError:
            pass
        target.close()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_wrong_rtsp_password_is_told_from_a_camera_that_is_off(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with RtspServer(login=f"{kind}:operator:secret") as server:
        counter = Counter(server.port)
        url = f"rtsp://operator:{{}}@127.0.0.1:{counter.port}/main"
        words = r"rtsp://\*\*\*@127.* refuses the login \(401 Unauthorized\): check user name and password; some cameras lock"
        with pytest.raises(SourceLoginError, match=words):
            open_source(url.format("wrong"))
        assert len(counter.logins) == 1
        with pytest.raises(
            SourceLoginError, match=r"asks for a login .*: write rtsp://\{CAMERA_USER\}:\{CAMERA_PASSWORD\}@127"
        ):
            open_source(f"rtsp://127.0.0.1:{counter.port}/main")
        assert len(counter.logins) == 1
        with caplog.at_level(logging.WARNING), open_source(url.format("wrong"), wait=True) as source:
            frames = iter(source)
            fault = next(frames)
            assert isinstance(fault.error, SourceLoginError)
            assert isinstance(fault.error, SourceRefusedError), "as callers of earlier versions expect"
            threading.Timer(2, source.close).start()
            assert list(frames) == []
        assert len(counter.logins) == 2, "it does not try again at once"
        assert re.search(r"refuses the login .*; next try at \d\d:\d\d:\d\d, in 10 s", caplog.text)
        with open_source(url.format("secret")) as source:
            assert next(iter(source)).image is not None
        counter.close()


def test_a_login_is_seen_as_refused_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        RtspServer(authority.issue("camera", "127.0.0.1"), "digest:operator:secret") as server,
        pytest.raises(SourceLoginError, match="401 Unauthorized"),
    ):
        open_source(f"rtsps://operator:wrong@127.0.0.1:{server.port}/main", ca_file=authority.path)


class Door:
    """An HTTP camera that asks for a login, notes each try, and delivers if it is the right one."""

    def __init__(self, kind: str, jpeg: bytes, status: int = 401) -> None:
        self.logins, self.password, self.status = list[float](), "secret", status
        door = self
        ask = 'Digest realm="camera", nonce="0123", qop="auth"' if kind == "digest" else 'Basic realm="camera"'

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Authorization")
                door.logins += [time.monotonic()] * (given is not None)
                right = "Basic " + base64.b64encode(f"operator:{door.password}".encode()).decode()
                if given != right:
                    self.send_response(door.status if given else 401)
                    self.send_header("WWW-Authenticate", ask)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                with suppress(OSError):  # the reader went away
                    for _ in range(20):  # then the connection ends
                        self.wfile.write(head + jpeg + b"\r\n")
                        time.sleep(0.02)
                self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                del format, arguments

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://operator:secret@127.0.0.1:{self._server.server_address[1]}/camera"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def door(request: pytest.FixtureRequest, http_camera: Camera) -> Iterator[Door]:
    kind, status = request.param
    door = Door(kind, http_camera._jpeg(0), status)
    yield door
    door.close()


@pytest.mark.parametrize("door", [("basic", 401), ("digest", 401), ("basic", 403)], indirect=True)
def test_a_wrong_http_password_is_one_try(door: Door) -> None:
    door.password = "another"
    with pytest.raises(SourceLoginError, match=rf"refuses the login \({door.status} "):
        open_source(door.url)
    assert len(door.logins) == 1


@pytest.mark.parametrize("door", [("basic", 401)], indirect=True)
def test_waits_grow_while_a_password_is_refused(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "_REFUSED_S", (0.8, 1.6, 2.4))
    with caplog.at_level(logging.WARNING), open_source(door.url) as source:
        frames = iter(source)
        assert next(frames).image is not None
        door.password, before = "changed", len(door.logins)
        fault = next(frame for frame in frames if frame.image is None)
        assert "signal lost (the connection ended)" in (fault.fault or "")
        threading.Timer(5.5, setattr, (door, "password", "secret")).start()
        assert next(frames).image is not None, "the login works again"
    tried = door.logins[before:]
    gaps = [after - first for first, after in itertools.pairwise(tried)]
    assert len(gaps) >= 3
    assert all(gap >= wait for gap, wait in zip(gaps, (0.8, 1.6, 2.4), strict=False)), gaps
    assert [float(wait) for wait in re.findall(r"next try at [\d:]+, in ([\d.]+) s", caplog.text)][:3] == [0.8, 1.6, 2.4]


def test_a_login_refused_while_reading_counts_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The capture process connects again by itself when the image size may have changed."""
    monkeypatch.setattr(live, "_REFUSED_S", (0.8, 1.6))
    opened, refused = (
        OpenedMessage(fps=None, frames=None),
        LostMessage(SourceLoginError("camera refuses the login", "check it")),
    )
    asked: list[float] = []

    class Scripted:
        def __init__(self, job: object) -> None:
            del job
            self._messages = iter([opened, refused, refused, opened, FrameMessage(np.zeros((4, 4), np.uint8), 0)])

        def take(self, timeout_s: float) -> object:
            del timeout_s
            return next(self._messages)

        def open(self) -> None:
            asked.append(time.monotonic())

        def stop(self) -> None:
            """Do nothing."""

    monkeypatch.setattr(live, "Reader", Scripted)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), live.LiveSource("camera", CaptureJob("", "", (), 10)) as source:
        assert [frame.image is None for frame in itertools.islice(source, 2)] == [True, False]
    assert 0.8 <= asked[0] - started < 1.6 <= asked[1] - asked[0]
    assert caplog.text.count("next try at") == 2


def test_the_waits_do_not_lock_an_account() -> None:
    """Cameras lock it after 5 to 10 wrong logins within some minutes, often for half an hour."""
    assert live._REFUSED_S[:3] == (10, 30, 60)
    assert live._REFUSED_S[-1] == 600
    assert list(live._REFUSED_S) == sorted(live._REFUSED_S)
