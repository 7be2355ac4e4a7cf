"""Encoded clips made with ffmpeg, and an HTTP camera that sends them as a live MPEG transport stream."""

import shutil
import subprocess
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CODECS = {
    "h264": ["-c:v", "libx264", "-preset", "veryfast", "-bf", "0"],
    "h265": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:bframes=0:keyint=12:min-keyint=12"],
}
FPS = 25


@cache
def clip(form: str, codec: str = "h264", size: str = "320x240", seconds: float = 2) -> bytes:
    """A clip of ffmpeg's test picture in a container or, as ``h264`` and ``hevc``, without one; a key frame every 12 frames."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg here (Debian: ffmpeg)")
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={FPS}:duration={seconds}"]
    command = ["ffmpeg", "-v", "error", *source, *CODECS[codec], "-g", "12", "-f", form, "-"]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"this ffmpeg cannot encode {codec}")
    return made.stdout


def transport(path: Path, *streams: bytes, codec: str = "h264") -> bytes:
    """One MPEG transport stream of elementary streams, one behind another."""
    raw = path.with_suffix(f".{codec}")
    raw.write_bytes(b"".join(streams))
    form = {"h265": "hevc"}.get(codec, codec)
    subprocess.run(["ffmpeg", "-y", "-v", "error", "-r", str(FPS), "-f", form, "-i", raw, "-c", "copy", path], check=True)
    return path.read_bytes()


def packets_at(data: bytes, place: float) -> int:
    """The first byte of the transport packet at a fraction of the stream."""
    return int(len(data) * place) // 188 * 188


def with_flipped_bits(data: bytes, place: float, packets: int = 4) -> bytes:
    """The stream with wrong payload in some transport packets, as from failing memory."""
    damaged = bytearray(data)
    for packet in range(packets):
        start = packets_at(data, place) + 188 * packet + 60
        damaged[start : start + 60] = bytes(byte ^ 0xA5 for byte in damaged[start : start + 60])
    return bytes(damaged)


def with_lost_packets(data: bytes, place: float, packets: int = 3) -> bytes:
    """The stream without some transport packets, as after a lossy network."""
    start = packets_at(data, place)
    return data[:start] + data[start + 188 * packets :]


class StreamCamera:
    """Sends the n-th stream to the n-th connection, the last one to all others, at about the speed of its images."""

    def __init__(self, *streams: bytes, kind: str = "video/MP2T", speed: float = 2) -> None:
        self.connections, camera = 0, self
        self._gone = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = streams[min(camera.connections, len(streams) - 1)]
                camera.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                step = max(188, int(len(data) / (2 * FPS * speed)) // 188 * 188)
                try:
                    for start in range(0, len(data), step):
                        self.wfile.write(data[start : start + step])
                        if camera._gone.wait(1 / FPS / speed):
                            break
                    else:
                        camera._gone.wait(30)
                except OSError:
                    pass  # the reader went away
                self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                del format, arguments

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/camera"

    def __enter__(self) -> "StreamCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()
        time.sleep(0.05)
