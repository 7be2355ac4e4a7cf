"""The cameras, the uploads and the controller of ``benchmarks/soak.py``."""

import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

RATE = 15
RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1 "
                   "! x264enc tune=zerolatency key-int-max=15 speed-preset=ultrafast ! rtph264pay name=pay0 pt=96 )")
server.get_mount_points().add_factory("/main", factory); server.attach(None)
print("ready", flush=True); GLib.MainLoop().run()
"""


class RtspServer:
    """GStreamer's server in a process of its own, which can be killed."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        python = shutil.which("python3", path="/usr/bin:/bin") or sys.exit("no system Python")
        self.process = subprocess.Popen([python, "-c", RTSP, str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            sys.exit("GStreamer's RTSP server does not start")

    @contextmanager
    def gone(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Web(ThreadingHTTPServer):
    """A server that can go away, and come back on its port."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.gone = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def stop(self) -> None:
        self.gone.set()
        self.shutdown()
        self.server_close()


class Camera:
    """An MJPEG camera with a noisy image of a moving square, which does what cameras do."""

    def __init__(self) -> None:
        self.mode = "live"
        self.rng, self.number = np.random.default_rng(0), 0
        self.start()

    def start(self, port: int = 0) -> None:
        camera = self

        class Stream(BaseHTTPRequestHandler):
            server: Web

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                with suppress(OSError):
                    while not self.server.gone.wait(1 / RATE):
                        data = camera.jpeg()
                        if data and camera.mode != "silent":
                            head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                            self.wfile.write(head + data + b"\r\n")
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.web = Web(Stream, port)

    def jpeg(self) -> bytes:
        if self.mode != "frozen":
            self.number += 1
            size = (120, 160) if self.mode == "resized" else (240, 320)
            image = np.clip(self.rng.normal(110, 6, size), 0, 255).astype(np.uint8)
            x = 3 * self.number % (size[1] - 30)
            image[20:50, x : x + 30] = 220
            self.last = bytes(cv2.imencode(".jpg", image)[1])
        return self.last

    @contextmanager
    def doing(self, mode: str) -> Iterator[None]:
        self.mode = mode
        yield
        self.mode = "live"

    @contextmanager
    def gone(self) -> Iterator[None]:
        port = self.web.port
        self.web.stop()
        yield
        self.start(port)


class Controller:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told = 0
        self.start()

    def start(self, port: int = 0) -> None:
        controller = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                one = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                controller.told += one.get("lost", 1)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.web = Web(Post, port)

    @contextmanager
    def gone(self) -> Iterator[None]:
        port = self.web.port
        self.web.stop()
        yield
        self.start(port)


class Uploads:
    """Writes images into a folder as FTP servers do, and deletes old ones."""

    def __init__(self, folder: Path, camera: Camera) -> None:
        self.folder, self.camera, self.over, self.count = folder, camera, threading.Event(), 0
        folder.mkdir()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for number in itertools.count():
            if self.over.wait(1):
                return
            data, name = self.camera.last, f"{number}.jpg"
            renames = number % 2
            with (self.folder / (f"{name}.part" if renames else name)).open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                self.over.wait(0.3)
                file.write(data[len(data) // 2 :])
            if renames:
                (self.folder / f"{name}.part").rename(self.folder / name)
            self.count += 1
            with suppress(FileNotFoundError):
                (self.folder / f"{number - 90}.jpg").unlink()

    @contextmanager
    def damaged(self) -> Iterator[None]:
        path = self.folder / f"cut-{time.time():.0f}.jpg"
        path.write_bytes(self.camera.last[:500])
        yield
        path.unlink()
