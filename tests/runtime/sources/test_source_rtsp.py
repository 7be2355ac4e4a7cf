"""A real RTSP server on loopback, killed and restarted while its stream is read, and with TLS."""

import time
from itertools import islice
from pathlib import Path

import pytest
from certificates import Authority
from rtsp_servers import RtspServer

from lrdan_edge.errors import SourceCertificateError, SourceEndedError, SourceRefusedError, SourceTimeoutError
from lrdan_edge.runtime.sources import open_source


def test_an_rtsp_stream_killed_and_restarted(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspServer() as server:
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


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_stream_with_tls_and_a_password(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("camera", "127.0.0.1")
    with RtspServer(certificate, f"{kind}:operator:secret") as server:
        url = f"rtsps://operator:secret@127.0.0.1:{server.port}/main"
        with open_source(url, ca_file=authority.path) as source:
            frames = list(islice(source, 25))
        assert [frame.fault for frame in frames] == [None] * 25
        assert (source.fps, source.unverified) == (25, False)
        with pytest.raises(SourceCertificateError, match=r"rtsps://\*\*\*@127.*unable to get local issuer certificate"):
            open_source(url)
        with pytest.raises(SourceCertificateError, match="not valid for 'localhost'"):
            open_source(url.replace("127.0.0.1", "localhost"), ca_file=authority.path)
        with open_source(url, insecure=True) as source:
            assert next(iter(source)).image is not None
