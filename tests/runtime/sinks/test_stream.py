"""JSON Lines on a stream: whole lines, whatever happens to a write."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest
from loop_parts import BLACK

from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame
from lrdan_edge.runtime.sinks.stream import StreamSink
from lrdan_edge.runtime.sinks.worker import SinkWorker
from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict


def frame(index: int) -> InspectedFrame:
    return InspectedFrame(CapturedFrame.of(BLACK, index, "test://", "x" * 300), Verdict("good", 0.0, 1.0, 0.5), 1.0)


def test_a_line_that_an_error_has_cut_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, parts = os.write, iter([10, -1, 100, -1, -1])

    def write(descriptor: int, data: bytes) -> int:
        if (most := next(parts, len(data))) < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, data[:most])

    with (tmp_path / "out").open("wb") as file:
        sink = StreamSink(file.fileno())
        first, second = frame(0), frame(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            for _ in range(2):
                with pytest.raises(OSError, match="No space"):
                    sink.write(first)
            with pytest.raises(OSError, match="No space"):
                sink.write_gap(Gap(second, second, 1, "lost"))
            sink.write_gap(Gap(second, second, 1, "lost"))
            sink.write(frame(2))
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [one["index"] for one in found] == [0, 1, 2]


def test_a_reader_that_is_slow_gets_every_line_or_its_gap() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    worker = SinkWorker(StreamSink(write), size=8)
    dropped = sum(len(worker.put_all([(frame(index), False)])) for index in range(1000))
    got = bytearray()

    def reading() -> None:
        while data := os.read(read, 1 << 16):
            got.extend(data)

    thread = threading.Thread(target=reading)
    thread.start()
    worker.close()
    os.close(write)
    thread.join(20)
    os.close(read)
    found = [json.loads(line) for line in got.splitlines()]
    assert dropped > 0
    assert sum(one.get("lost", 1) for one in found) == 1000


def test_a_reader_that_goes_away_stops_the_sink_at_once() -> None:
    read, write = os.pipe()
    os.close(read)
    stopped: list[str] = []
    worker = SinkWorker(StreamSink(write), on_timeout=stopped.append)
    worker.put_all([(frame(0), True)])
    deadline = time.monotonic() + 10
    while not stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.close()
    os.close(write)
    assert stopped == ["sink stream stopped: its reader has closed it"]
