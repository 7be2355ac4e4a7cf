import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.errors import LrdanError, SourceAddressError, SourceError, SourceRefusedError
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.runtime.sources.addresses import camera_path, filled
from lrdan_edge.runtime.sources.redact import redact


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://cam.local:554/main", "rtsp://cam.local:554/main"),
        ("rtsp://admin:secret@cam.local/main", "rtsp://***@cam.local/main"),
        ("rtsp://admin:se@cret@cam.local/main", "rtsp://***@cam.local/main"),
        ("rtsp://admin:se/cret@cam.local/main", "rtsp://***@cam.local/main"),
        ("http://cam/v.cgi?user=admin&pwd=secret&size=2", "http://cam/v.cgi?user=***&pwd=***&size=2"),
        ("http://cam:80/a@b", "http://cam:80/a@b"),
        ("parts/*.png", "parts/*.png"),
        ("rtsp://10.0.0.9:554/user=admin_password=secret_channel=1", "rtsp://10.0.0.9:554/user=***"),
        (
            "gst:rtspsrc location=rtsp://admin:secret@cam/s latency=0 ! decodebin",
            "gst:rtspsrc location=rtsp://***@cam/s latency=0 ! decodebin",
        ),
        (
            'rtspsrc location=rtsp://cam/s user-id=admin user-pw="sec ret" ! decodebin',
            "rtspsrc location=rtsp://cam/s user-id=*** user-pw=*** ! decodebin",
        ),
    ],
)
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp:/u:hunter2@127.0.0.1/x",
        "u:hunter2@h/x",
        "rtsp:u:hunter2@h",
        "rtsp//u:hunter2@h/x",
        " rtsp://u:hunter2@h/x",
        "file://u:hunter2@h/x",
        "genicam://u:hunter2@h",
        "GST:rtspsrc user-pw=hunter2 ! appsink",
        "gst:rtspsrc user-pw = hunter2 ! appsink",
        "gst:rtspsrc user-pw='a hunter2' ! appsink",
        "gst:rtspsrc user-pw=a/hunter2 ! appsink",
        r'gst:rtspsrc user-pw="a\"hunter2" ! appsink',
        "gst:rtspsrc proxy-pw=hunter2 ! appsink",
        "gst:srtsrc passphrase=hunter2 ! appsink",
        "gst:rtspsrc location=rtsp://u:a/hunter2@h ! appsink",
        "gst:rtspsrc location=rtsp://u:a!hunter2@h ! appsink",
        'gst:rtspsrc location="rtsp://u:a hunter2@h" ! appsink',
        *(
            f"http://h/x?a=1&{name}=hunter2"
            for name in ("access_token", "client_secret", "jwt", "psw", "loginpas", "X-Amz-Signature")
        ),
    ],
)
def test_a_mistyped_address_shows_no_password_either(uri: str) -> None:
    assert "hunter2" not in redact(uri)
    if "?" not in uri and not uri.startswith(("gst:", "genicam:")):
        with pytest.raises(LrdanError) as failure:
            open_source(uri)
        assert "hunter2" not in failure.value.worded()


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P")), min_size=4).filter(lambda s: s[0] not in "/?#")
)
def test_no_password_survives_redaction(password: str) -> None:
    assert redact(f"rtsp://operator:x{password}@camera.example/main").endswith("***@camera.example/main")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("0", "/dev/video0"),
        ("12", "/dev/video12"),
        ("/dev/video3", "/dev/video3"),
        ("v4l2:///dev/video1", "/dev/video1"),
        ("/dev/v4l/by-id/usb-Maker_Camera-video-index0", "/dev/v4l/by-id/usb-Maker_Camera-video-index0"),
        ("video0", None),
        ("-1", None),
        ("", None),
        ("/dev/null", None),
    ],
)
def test_camera_addresses(uri: str, path: str | None) -> None:
    """A link by id stays one, for after a reset the camera may have another number."""
    assert camera_path(uri) == path


def test_a_misspelt_file_name_suggests_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "line_3.mp4").touch()
    with pytest.raises(SourceAddressError, match=r"line3\.mp4 does not exist \(did you mean 'line_3\.mp4'\?\): give a folder"):
        open_source(str(tmp_path / "line3.mp4"))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("rstp://admin:secret@cam/x", r"rstp://\*\*\*@cam/x is not a known source \(did you mean 'rtsp'\?\)"),
        ("ftp://cam/x", "is not a known source: give"),
        ("", "address is empty"),
        ("file://elsewhere/x.mp4", "names no file on this machine"),
        ("http://cam:99999/x", "no valid host and port"),
        ("rtsp://admin:se/cret@cam/x", r"rtsp://\*\*\*@cam/x names no valid host"),
        ("/dev/null", "is not a folder, a file or a camera"),
        ("no/such/folder/*.png", "no file matches"),
        ("no/such/folder/a.png", "nor does the folder no/such/folder"),
        ("a\0b", "does not exist|cannot be read"),
    ],
)
def test_an_address_of_nothing_gives_one_clear_line(uri: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        open_source(uri)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceAddressError, match="is not a folder"):
        open_source(tmp_path / "pipe.mp4")


def test_a_missing_camera_names_those_that_exist() -> None:
    with pytest.raises(SourceAddressError, match=r"no camera /dev/video987 \(found: .+\)"):
        open_source("987")


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for scheme in ("rtsp", "http"):
        with pytest.raises(SourceRefusedError, match=rf"nothing listens on 127\.0\.0\.1:{port}"):
            open_source(f"{scheme}://operator:secret@127.0.0.1:{port}/main", open_timeout_s=3)


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_USER", "me")
    monkeypatch.setenv("CAMERA_PASSWORD", "p@ss/wörd")
    assert filled("rtsp://{CAMERA_USER}:{CAMERA_PASSWORD}@host/a") == "rtsp://me:p%40ss%2Fw%C3%B6rd@host/a"
    monkeypatch.delenv("CAMERA_PASSWORD")
    with pytest.raises(SourceAddressError, match="the environment variable CAMERA_PASSWORD is not set"):
        open_source("rtsp://{CAMERA_USER}:{CAMERA_PASSWORD}@host/a")
