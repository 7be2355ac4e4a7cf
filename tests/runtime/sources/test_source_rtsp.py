"""A real RTSP server (GStreamer's) on loopback, killed and restarted while its stream is read."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from lrdan_edge.errors import SourceEndedError, SourceRefusedError, SourceTimeoutError
from lrdan_edge.runtime.sources import open_source

SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin")
DEBIAN = "(Debian: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly)"
SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
if not all(Gst.ElementFactory.find(name) for name in ("x264enc", "rtph264pay", "videotestsrc")):
    sys.exit("a GStreamer plugin is missing")
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 "
                   "! x264enc tune=zerolatency key-int-max=12 speed-preset=ultrafast ! rtph264pay name=pay0 pt=96 )")
server.get_mount_points().add_factory("/main", factory); server.attach(None)
print("ready", flush=True); GLib.MainLoop().run()
"""


class Server:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        assert SYSTEM_PYTHON is not None
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, "-c", SERVER, str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if self.process.stdout.readline().strip() != "ready":
            reason = self.process.stderr.read().strip().splitlines()[-1:]
            self.kill()
            pytest.skip(f"no GStreamer RTSP server here ({' '.join(reason)}) {DEBIAN}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture
def server() -> Iterator[Server]:
    if SYSTEM_PYTHON is None:
        pytest.skip(f"no system Python for GStreamer's RTSP server {DEBIAN}")
    server = Server()
    server.start()
    yield server
    server.kill()


def test_an_rtsp_stream_killed_and_restarted(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceRefusedError, match=r"rtsp://\*\*\*@127.+answers, but sends no video at this address"):
        open_source(f"rtsp://operator:secret@127.0.0.1:{server.port}/other")
    with open_source(f"rtsp://127.0.0.1:{server.port}/main", read_timeout_s=2) as source:
        assert (source.live, source.fps, source.frames) == (True, 25, None)
        frames = iter(source)
        before = list(islice(frames, 25))
        assert all(frame.image is not None and frame.image.shape == (240, 320, 3) for frame in before)
        server.kill()
        fault = next(frame for frame in frames if frame.image is None)
        assert "signal lost" in (fault.fault or "")
        assert isinstance(fault.error, (SourceEndedError, SourceTimeoutError))
        time.sleep(1)
        server.start()
        started = time.monotonic()
        after = next(frames)
        assert time.monotonic() - started < 2.5  # 2 s, and half a second for a busy machine
        assert (after.fault, after.index) == (None, fault.index + 1)
    assert capfd.readouterr() == ("", "")
