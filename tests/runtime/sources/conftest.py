"""Real videos and a real HTTP camera for the source tests."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lrdan_edge.data.images import Frame
from lrdan_edge.runtime.sources.native import quiet


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Frame]:
    """The i-th picture of every test video: a moving square, and its number as brightness of the left edge."""

    def draw(number: int) -> Frame:
        image = np.full((48, 64, 3), 90, np.uint8)
        image[:, :8] = number * 6 % 256
        x = 10 + number % 40
        image[10:24, x : x + 12] = (0, 200, 255)
        return image

    return draw


@pytest.fixture(scope="session")
def write_video(picture: Callable[[int], Frame]) -> Callable[..., Path]:
    def write(path: Path, codec: str, frames: int = 40, fps: float = 25) -> Path:
        with quiet:  # FFmpeg keeps the log level of its first use in a process
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
        if not writer.isOpened():
            pytest.skip(f"this OpenCV cannot write {codec}")
        for number in range(frames):
            writer.write(picture(number))
        writer.release()
        return path

    return write


class HttpCamera:
    """An MJPEG camera on loopback that can be killed, silenced and started again on the same port."""

    def __init__(self, jpeg: Callable[[int], bytes]) -> None:
        self._jpeg = jpeg
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self.port = 0
        self.certificate: Path | None = None
        self.redirect: str | None = None
        self.requests: list[Message] = []
        self.silent = threading.Event()
        self.stop_mid_frame = False
        self.cut = set[int]()

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}/camera"

    def start(self) -> None:
        camera, gone = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests.append(self.headers)
                if camera.redirect is not None:
                    self.send_response(302)
                    self.send_header("Location", camera.redirect)
                    self.end_headers()
                    return
                if self.path != "/camera":
                    self.send_error(404)
                    return
                camera._connections.append(self.connection)
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                number = 0
                try:
                    while not gone.wait(0.02):
                        if camera.silent.is_set():
                            continue
                        data = camera._jpeg(number)
                        data = data[: len(data) * 6 // 10] if number in camera.cut else data
                        head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                        half = camera.stop_mid_frame and number == 10
                        self.wfile.write(head + (data[: len(data) // 2] if half else data + b"\r\n"))
                        if half:
                            break
                        number += 1
                except OSError:
                    pass  # the reader went away
                self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                del format, arguments

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                if camera.certificate is None:
                    super().finish_request(request, client_address)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(camera.certificate)
                with suppress(OSError), context.wrap_socket(request, server_side=True) as wrapped:  # readers refuse some
                    super().finish_request(wrapped, client_address)

            def shutdown(self) -> None:
                gone.set()
                super().shutdown()

        self._connections.clear()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def http_camera(picture: Callable[[int], Frame]) -> Iterator[HttpCamera]:
    def jpeg(number: int) -> bytes:
        return bytes(cv2.imencode(".jpg", picture(number))[1])

    camera = HttpCamera(jpeg)
    camera.start()
    yield camera
    camera.kill()
