"""A real RTSP server (GStreamer's) on loopback, run by the system's Python: with TLS, a password, packet loss, as a test asks."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin")
DEBIAN = (
    "(Debian: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly glib-networking)"
)
_PROGRAM = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtsp", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer
port, certificate, login, element = sys.argv[1:]
Gst.init(None)
if not all(Gst.ElementFactory.find(name) for name in ("x264enc", "rtph264pay", "videotestsrc")):
    sys.exit("a GStreamer plugin is missing")
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 "
                   "! x264enc tune=zerolatency key-int-max=12 speed-preset=ultrafast " + element +
                   "! rtph264pay name=pay0 pt=96 )")
if certificate or login:
    auth = GstRtspServer.RTSPAuth()
    if certificate:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(certificate))
    if login:
        kind, user, password = login.split(":")
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        if kind == "digest":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST); auth.add_digest(user, password, token)
        else:
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        factory.add_role_from_structure(Gst.Structure.from_string(
            "user,media.factory.access=true,media.factory.construct=true")[0])
    server.set_auth(auth)
server.get_mount_points().add_factory("/main", factory); server.attach(None)
print("ready", flush=True); GLib.MainLoop().run()
"""


class RtspServer:
    """Can be killed, and started again on the same port. Its stream is ``/main``: 320x240, 25 frames/s, H.264.

    Args:
        certificate: A file with its certificate and key: it then speaks TLS only.
        login: ``basic:USER:PASSWORD`` or ``digest:USER:PASSWORD``.
        element: A part of the pipeline behind the encoder, as in ``! identity drop-probability=0.1``.
    """

    def __init__(self, certificate: Path | None = None, login: str = "", element: str = "") -> None:
        if SYSTEM_PYTHON is None:
            pytest.skip(f"no system Python for GStreamer's RTSP server {DEBIAN}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._arguments = [str(certificate or ""), login, element]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        assert SYSTEM_PYTHON is not None
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, "-c", _PROGRAM, str(self.port), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline().strip() != "ready":
            reason = self._process.stderr.read().strip().splitlines()[-1:]
            self.kill()
            pytest.skip(f"no GStreamer RTSP server here ({' '.join(reason)}) {DEBIAN}")
        time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> "RtspServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
