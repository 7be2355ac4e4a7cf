"""Real servers with TLS: which certificates are believed, and that nothing is sent to the others."""

import logging
import ssl
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import Authority

from lrdan_edge.errors import SourceAddressError, SourceCertificateError, SourceError, SourceRefusedError
from lrdan_edge.runtime.sources import open_source

Camera = Any  # conftest's HttpCamera


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_of_a_known_authority_is_believed(
    http_camera: Camera, authority: Authority, picture: Callable[[int], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    http_camera.certificate = authority.issue("camera", "127.0.0.1")
    url = http_camera.url.replace("://", "://operator:secret@") + "?channel=1"
    with pytest.raises(SourceRefusedError, match="answers, but sends no video"):
        open_source(url, ca_file=authority.path)  # the path is another with the query: the server says so through the tunnel
    with open_source(http_camera.url, ca_file=authority.path) as source:
        frames = list(islice(source, 20))
    assert [frame.fault for frame in frames] == [None] * 20
    assert frames[0].image is not None
    assert np.abs(frames[0].image.astype(int) - picture(0)).mean() < 4
    assert (source.uri, source.unverified) == (http_camera.url, False)
    assert http_camera.requests[-1]["Host"] == f"127.0.0.1:{http_camera.port}", "its own name, not that of the tunnel"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("hosts", "how", "known", "words"),
    [
        (("127.0.0.1",), {}, False, "unable to get local issuer certificate.*with ca_file.*insecure=True turns the check off"),
        (("127.0.0.1",), {"own": True}, True, "self.signed certificate"),
        (("cam.example", "10.0.0.1"), {}, True, r"not valid for '127\.0\.0\.1'.*use a name that it was issued for"),
        (("127.0.0.1",), {"expired": True}, True, r"certificate has expired\): renew it, and check the clocks"),
    ],
)
def test_other_certificates_are_refused(
    http_camera: Camera, authority: Authority, hosts: tuple[str, ...], how: dict[str, bool], known: bool, words: str
) -> None:
    http_camera.certificate = authority.issue("camera", *hosts, **how)
    url = http_camera.url.replace("://", "://operator:secret@")
    with pytest.raises(SourceCertificateError, match=words) as caught:
        open_source(url, ca_file=authority.path if known else None)
    assert "secret" not in str(caught.value)
    assert http_camera.requests == [], "neither the path nor a password"


def test_a_cameras_own_certificate_can_be_trusted(http_camera: Camera, authority: Authority) -> None:
    for own in (True, False):
        http_camera.certificate = authority.issue("camera", "127.0.0.1", own=own)
        with open_source(http_camera.url, ca_file=http_camera.certificate) as source:
            assert next(iter(source)).image is not None


def test_insecure_reads_from_anyone_and_says_so(
    http_camera: Camera, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    http_camera.certificate = authority.issue("camera", "elsewhere", own=True, expired=True)
    with caplog.at_level(logging.WARNING), open_source(http_camera.url, insecure=True) as source:
        assert next(iter(source)).image is not None
        assert source.unverified
    assert "its certificate is not checked: anyone on the network can send other images" in caplog.text


def test_a_camera_that_changes_its_certificate_is_a_fault_until_it_is_valid(http_camera: Camera, authority: Authority) -> None:
    http_camera.certificate = authority.issue("camera", "127.0.0.1")
    other = authority.issue("other", "127.0.0.1", own=True)
    good = http_camera.certificate
    with open_source(http_camera.url, ca_file=authority.path) as source:
        frames = iter(source)
        assert next(frames).image is not None
        http_camera.certificate = other
        http_camera.kill()
        assert next(frame for frame in frames if frame.image is None).error is not None
        http_camera.start()
        threading.Timer(2, setattr, (http_camera, "certificate", good)).start()
        assert next(frames).image is not None
        assert http_camera.certificate == good, "not before"


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/camera", "https://other.example/camera", "/camera"])
def test_a_redirect_past_the_check_is_refused(http_camera: Camera, authority: Authority, target: str) -> None:
    http_camera.certificate = authority.issue("camera", "127.0.0.1")
    http_camera.redirect = target.format(port=http_camera.port)
    with pytest.raises(SourceRefusedError, match=rf"redirects to {http_camera.redirect}: give the address"):
        open_source(http_camera.url, ca_file=authority.path)
    assert len(http_camera.requests) == 1


def test_what_does_not_speak_tls_is_refused(http_camera: Camera) -> None:
    with pytest.raises(SourceError, match=r"does not speak TLS|sends no certificate|cannot be"):
        open_source(http_camera.url.replace("http:", "https:"), open_timeout_s=2)
    assert http_camera.requests == []


def test_a_file_without_certificates_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(SourceAddressError, match=rf"certificates in .*{name} cannot be read.*check ca_file"):
            open_source("https://127.0.0.1/x", ca_file=tmp_path / name, wait=True)


def test_a_video_on_a_server_with_tls_is_read_to_its_end(
    write_video: Callable[..., Path], authority: Authority, tmp_path: Path
) -> None:
    """Its index lies at the end, so that FFmpeg connects more than once."""
    path = write_video(tmp_path / "line.mp4", "mp4v", 40)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(path.parent))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            del format, arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.issue("server", "127.0.0.1"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with open_source(f"https://127.0.0.1:{server.server_address[1]}/{path.name}", ca_file=authority.path) as source:
            assert (source.live, source.frames, source.unverified) == (False, 40, False)
            assert [frame.fault for frame in source] == [None] * 40
        server.shutdown()
