import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from loop_parts import BLACK, Collect, Frames, constant, delayed, endless, numbered
from parts import Line, good_image, write

from lrdan_edge import Inspector
from lrdan_edge.errors import BackendError, DataError, SourceError
from lrdan_edge.runtime.loop import InspectionLoop, inspection
from lrdan_edge.runtime.loop.frame_queue import FrameQueue, ReadyFrame
from lrdan_edge.runtime.sinks.base import InspectedFrame, Sink
from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, JsonLinesSink
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.runtime.sources.base import CapturedFrame


@pytest.fixture
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_recorded_frames_are_all_inspected_in_order(null: Inspector, batch: int) -> None:
    sink = Collect(delay_s=0.0005)
    progress = InspectionLoop(null, Frames(numbered(500)), [sink], batch=batch).run()
    assert [one.frame.index for one in sink.got] == list(range(500))
    assert (progress.frames, progress.dropped, progress.undelivered) == (500, 0, 0)
    assert sink.closed


def test_live_frames_are_dropped_oldest_first_and_counted(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    def camera(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(100):
            time.sleep(0.002)
            yield CapturedFrame.of(BLACK, index, source.uri, str(index))

    infer = null.backend.infer
    monkeypatch.setattr(null.backend, "infer", delayed(infer, 0.02))
    sink = Collect()
    progress = InspectionLoop(null, Frames(camera, live=True), [sink]).run()
    indices = [one.frame.index for one in sink.got]
    assert indices == sorted(indices)
    assert indices[-1] == 99, "the newest frame wins"
    assert progress.frames + progress.dropped == 100
    assert progress.dropped > 50
    assert max(one.latency_ms for one in sink.got) < 500, "no backlog forms"


def test_a_fault_of_the_source_is_a_fault_verdict(null: Inspector) -> None:
    def broken(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        yield CapturedFrame.missing("b.png is not a complete image", 1, source.uri, "b.png")
        yield CapturedFrame.of(BLACK, 2, source.uri, "c")

    sink = Collect()
    progress = InspectionLoop(null, Frames(broken), [sink], batch=3).run()
    assert [one.verdict.outcome for one in sink.got] == ["good", "fault", "good"]
    assert progress.problems == ["b.png is not a complete image"]


def test_a_source_that_dies_raises_after_its_frames_were_delivered(null: Inspector) -> None:
    def dying(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        raise SourceError("the camera is gone")

    sink = Collect()
    with pytest.raises(SourceError, match="the camera is gone"):
        InspectionLoop(null, Frames(dying), [sink]).run()
    assert [one.verdict.outcome for one in sink.got] == ["good", "fault"], "the gap is recorded"
    assert sink.got[1].verdict.fault == "the camera is gone"
    assert sink.closed


def test_a_sink_that_fails_does_not_stop_inspection(null: Inspector) -> None:
    full, other = Collect(fail_at=3), Collect()
    progress = InspectionLoop(null, Frames(numbered(50)), [full, other]).run()
    assert len(full.got) == 3
    assert len(other.got) == 50
    assert progress.problems == ["sink collect stopped: No space left on device (verdicts.jsonl)"]
    assert progress.drops == {"queue full": 0, "slow sink": 0, "failed sink": 47, "fault of source": 0}


@pytest.mark.parametrize("live", [False, True])
def test_a_sink_with_a_bug_is_a_problem_and_no_deadlock(null: Inspector, live: bool) -> None:
    class Broken(Collect):
        def write(self, inspected: InspectedFrame) -> None:  # noqa: ARG002
            raise ZeroDivisionError("a bug")

    source = Frames(numbered(300), live=live)
    progress = InspectionLoop(null, source, [Broken()]).run()
    assert progress.problems == ["sink collect stopped: ZeroDivisionError: a bug"]


def test_a_source_with_a_bug_does_not_look_like_one_that_ended(null: Inspector) -> None:
    def broken(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        InspectionLoop(null, Frames(broken), []).run()


def test_a_stopped_sink_is_reported_at_once_whatever_else_fails(null: Inspector) -> None:
    def losing(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(300):
            fault = f"reason {index}" if 50 <= index < 170 else "signal lost"
            yield CapturedFrame.missing(fault, index, source.uri, f"frame {index}")
            time.sleep(0.001)

    seen: list[tuple[list[str], int]] = []
    sink = Collect(fail_at=200)
    loop = InspectionLoop(null, Frames(losing), [sink])
    progress = loop.run(lambda progress: seen.append((list(progress.problems), progress.drops["failed sink"])))
    assert any("stopped" in problem for problem in seen[-20][0]), "the run still goes on"
    assert seen[-20][1] > 0
    assert [problem for problem in progress.problems if "signal lost" in problem] == ["frame 0: signal lost"], "once"
    assert len(progress.problems) == 101
    assert progress.drops["failed sink"] == 100


def test_a_backend_that_is_gone_ends_the_run(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost GPU fails every call from then on: only another process may have it again."""
    monkeypatch.setattr(inspection, "BACKEND_GONE_S", 0.3)

    def lost(*_: object, **__: object) -> None:
        time.sleep(0.02)
        raise BackendError("an illegal memory access was encountered")

    sink = Collect()
    with constant(line.bundle) as inspector:
        monkeypatch.setattr(inspector.backend, "infer", lost)
        monkeypatch.setattr(inspector, "warm_up", lambda *_: None)
        loop = InspectionLoop(inspector, Frames(endless, live=True), [sink])
        with pytest.raises(BackendError, match=r"failed for .* without a pause \(an illegal memory access"):
            loop.run()
    assert len(sink.got) > 5
    assert {one.verdict.outcome for one in sink.got} == {"fault"}


def test_a_full_disk_leaves_no_half_of_a_line(null: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file whose disk has room for ten bytes more."""

        def __init__(self, file: io.FileIO) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, line: bytes) -> int:
            return self._file.write(line[:10])

    sink = JsonLinesSink(tmp_path / "out")
    InspectionLoop(null, Frames(numbered(2)), [collect := Collect()]).run()
    sink.write(collect.got[0])
    assert sink._file._file is not None
    monkeypatch.setattr(sink._file, "_file", Full(sink._file._file))
    with pytest.raises(OSError, match="No space left"):
        sink.write(collect.got[1])
    sink.close()
    assert len((tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "out" / "verdicts.jsonl").read_bytes().endswith(b"}\n")


def test_a_slow_sink_does_not_delay_a_live_source(null: Inspector) -> None:
    def camera(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(300):
            time.sleep(0.0005)
            yield CapturedFrame.of(BLACK, index, source.uri, str(index))

    slow = Collect(delay_s=0.01)
    started = time.monotonic()
    progress = InspectionLoop(null, Frames(camera, live=True), [slow]).run()
    assert time.monotonic() - started < 3
    assert progress.undelivered + len(slow.got) == progress.frames


def test_stop_drains_and_ends(null: Inspector) -> None:
    source, sink = Frames(endless), Collect()
    loop = InspectionLoop(null, source, [sink])
    threading.Timer(0.2, loop.stop).start()
    progress = loop.run()
    assert source.closed.is_set()
    assert len(sink.got) == progress.frames > 0


def test_the_queue_ends_for_a_waiting_source() -> None:
    frame_queue = FrameQueue([(1, "every")])
    frame = ReadyFrame(0, CapturedFrame.of(BLACK, 0, "test://", "a"), BLACK, None)
    frame_queue.put(frame)
    waiting = threading.Thread(target=frame_queue.put, args=(frame,))
    waiting.start()
    frame_queue.end()
    waiting.join(timeout=2)
    assert not waiting.is_alive()
    assert frame_queue.take(5) == (0, [frame])
    assert frame_queue.take(5) == (1, [])


def test_verdicts_and_images_of_a_folder(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    rng = np.random.default_rng(0)
    for index in range(12):
        write(folder / f"part_{index}.png", good_image(rng))
    (folder / "part_5.png").write_bytes(b"not an image")
    sinks: list[Sink] = [JsonLinesSink(tmp_path / "out"), AnnotatedFramesSink(tmp_path / "out", "all")]
    with Inspector.open(line.bundle, backend="onnxruntime", precision="fp32") as inspector:
        InspectionLoop(inspector, open_source(str(folder)), sinks, batch=4).run()
    records = [json.loads(text) for text in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == [f"part_{index}.png" for index in range(12)]
    assert [record["index"] for record in records if record["outcome"] == "fault"] == [5]
    assert "part_5.png" in records[5]["fault"]
    assert records[5]["score"] is None
    assert all(record["score"] <= record["threshold"] for record in records if record["outcome"] == "good")
    pictures = sorted((tmp_path / "out" / "frames").iterdir())
    assert len(pictures) == 11
    picture = cv2.imread(str(pictures[0]))
    assert picture is not None
    assert min(picture.shape[:2]) >= 320
    with pytest.raises(DataError, match="earlier run's verdicts: choose another output, or give append=True or overwrite=True"):
        JsonLinesSink(tmp_path / "out")
    JsonLinesSink(tmp_path / "out", append=True).close()
    path = tmp_path / "out" / "verdicts.jsonl"
    assert len(path.read_text().splitlines()) == 12
    with path.open("ab") as file:
        file.write(b'{"index":12,' + 70_000 * b" ")  # as a power failure leaves it
    JsonLinesSink(tmp_path / "out", append=True).close()
    assert [json.loads(text) for text in path.read_text().splitlines()] == records
    path.write_bytes(b'{"index"')
    JsonLinesSink(tmp_path / "out", append=True).close()
    assert path.read_bytes() == b""
    JsonLinesSink(tmp_path / "out", overwrite=True).close()
    (tmp_path / "out" / "frames" / "mine.png").write_bytes(b"")
    AnnotatedFramesSink(tmp_path / "out", "all", overwrite=True).close()
    assert [path.name for path in (tmp_path / "out" / "frames").iterdir()] == ["mine.png"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        AnnotatedFramesSink(tmp_path / "file", "all")
