"""What the stages promise each other: overlap, order, idleness, and faults that never look good."""

import dataclasses
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from loop_parts import BLACK, Collect, Frames, constant, delayed, endless, numbered
from parts import Line

from lrdan_edge import Inspector
from lrdan_edge.backends.base import Detections
from lrdan_edge.errors import BackendError
from lrdan_edge.runtime.loop import InspectionLoop, Progress
from lrdan_edge.runtime.sources.base import CapturedFrame


@pytest.fixture
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


def test_capture_and_inference_overlap(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoding(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(50):
            time.sleep(0.01)
            yield CapturedFrame.of(BLACK, index, source.uri, str(index))

    infer = null.backend.infer
    monkeypatch.setattr(null.backend, "infer", delayed(infer, 0.01))
    progress = InspectionLoop(null, Frames(decoding)).run()
    assert progress.seconds < 0.8, "one after the other takes a second"


@pytest.mark.parametrize("in_flight", [1, 3])
def test_verdicts_stay_in_order_if_batches_finish_out_of_order(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, in_flight: int
) -> None:
    infer, chance = null.backend.infer, random.Random(0)

    def uneven(*args: Any, **kwargs: Any) -> Detections:
        time.sleep(chance.uniform(0, 0.004))
        return infer(*args, **kwargs)

    monkeypatch.setattr(null.backend, "infer", uneven)
    sink = Collect()
    InspectionLoop(null, Frames(numbered(200)), [sink], batch=2, in_flight=in_flight).run()
    assert [one.frame.index for one in sink.got] == list(range(200))


def test_a_waiting_loop_uses_no_processor_time(null: Inspector) -> None:
    def silent(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        source.closed.wait(30)

    sources = [Frames(silent, live=True) for _ in range(4)]
    loop = InspectionLoop(null, sources, [Collect()])
    running = threading.Thread(target=loop.run)
    running.start()
    while loop.progress.frames < 4:
        time.sleep(0.01)
    spent = time.process_time()
    time.sleep(1.0)
    spent = time.process_time() - spent
    loop.stop()
    running.join(timeout=10)
    assert spent < 0.05


@pytest.mark.parametrize(
    "answer", [np.full(1, math.nan, np.float32), np.full(1, math.inf, np.float32), np.empty(0, np.float32)]
)
def test_a_missing_score_is_a_fault_and_never_good(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, answer: npt.NDArray[np.float32]
) -> None:
    loop = InspectionLoop(null, Frames(numbered(3)))
    monkeypatch.setattr(null, "warm_up", lambda _: None)
    monkeypatch.setattr(null.backend, "infer", lambda *_, **__: Detections(answer, None))
    assert loop.run().outcomes == {"fault": 3}


def test_a_backend_failure_is_a_fault_and_the_loop_continues(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    infer, calls = null.backend.infer, iter(range(100))

    def failing(*args: Any, **kwargs: Any) -> Detections:
        if next(calls) == 2:
            raise BackendError("the device is gone")
        return infer(*args, **kwargs)

    monkeypatch.setattr(null.backend, "infer", failing)
    progress = InspectionLoop(null, Frames(numbered(10)), batch=1).run()
    assert progress.outcomes == {"good": 9, "fault": 1}
    assert "the device is gone" in progress.problems[0]
    assert progress.drops["fault of source"] == 0, "the source was not to blame"


def test_a_bug_in_a_stage_ends_the_loop_and_is_raised(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Frames(endless)
    loop = InspectionLoop(null, source, [sink := Collect()])
    null.warm_up()
    monkeypatch.setattr(null, "warm_up", lambda _: None)
    monkeypatch.setattr(null.backend, "infer", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert source.closed.is_set()
    assert sink.closed


def test_a_bug_in_the_report_leaves_nothing_running(null: Inspector) -> None:
    def broken(_: Progress) -> None:
        raise ZeroDivisionError

    before = threading.active_count()
    loop = InspectionLoop(null, [Frames(endless), Frames(endless)], [sink := Collect()])
    with pytest.raises(ZeroDivisionError):
        loop.run(broken)
    assert sink.closed
    assert threading.active_count() == before


def test_every_stage_is_timed_from_capture_to_sink(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    infer = null.backend.infer
    monkeypatch.setattr(null.backend, "infer", lambda *args, **kw: delayed(infer, 0.005)(*args, **kw)._replace(device_ms=4.0))
    sink = Collect(delay_s=0.002)
    progress = InspectionLoop(null, Frames(numbered(40)), [sink]).run()
    found = {stage: latency.percentiles_ms() for stage, latency in progress.latency.items()}
    assert set(found) == {"wait", "infer", "device", "decide", "total", "deliver collect"}
    assert {latency.count for latency in progress.latency.values()} == {40}
    assert 5 <= found["infer"]["p50"] < 50
    assert found["device"]["max"] == 4
    assert found["deliver collect"]["p50"] >= 2
    assert found["total"]["max"] >= found["infer"]["p50"]
    for stage in found.values():
        assert stage["p50"] <= stage["p95"] <= stage["p99"] <= stage["max"]
    assert max(one.latency_ms for one in sink.got) == pytest.approx(found["total"]["max"])
    assert progress.as_dict()["latency_ms"] == found


def test_a_sink_without_images_keeps_no_images_waiting(null: Inspector) -> None:
    plain, drawing = Collect(pictures=False), Collect()
    InspectionLoop(null, Frames(numbered(5)), [plain, drawing]).run()
    assert [(one.frame.image, one.verdict.heatmap) for one in plain.got] == [(None, None)] * 5
    assert all(one.frame.image is not None and one.verdict.heatmap is not None for one in drawing.got)
    assert [one.frame.name for one in plain.got] == [one.frame.name for one in drawing.got]
    assert not any(one.frame.fault for one in plain.got)


@pytest.mark.slow
def test_memory_of_a_long_run_does_not_grow(null: Inspector) -> None:
    import tracemalloc

    marks: list[int] = []

    def mark(progress: Progress) -> None:
        if progress.frames in (2000, 20000):
            marks.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        InspectionLoop(null, Frames(numbered(20001)), heatmaps=False).run(mark)
    finally:
        tracemalloc.stop()
    assert marks[1] - marks[0] < 100_000


def test_a_backend_that_cannot_start_leaves_nothing_open(null: Inspector) -> None:
    null.close()
    source, sink = Frames(endless), Collect()
    loop = InspectionLoop(null, source, [sink])
    with pytest.raises(BackendError, match="closed"):
        loop.run()
    assert source.closed.is_set()
    assert sink.closed
    with pytest.raises(RuntimeError, match="make a new one"):
        loop.run()


def test_a_frame_marked_as_a_fault_by_its_source_is_a_fault_even_with_an_image(null: Inspector) -> None:
    def frozen(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        yield replace(CapturedFrame.of(BLACK, 1, source.uri, "b"), fault="the picture is frozen")

    sink = Collect()
    progress = InspectionLoop(null, Frames(frozen, live=True), [sink], policy="every").run()
    assert [one.verdict.outcome for one in sink.got] == ["good", "fault"]
    assert sink.got[1].frame.image is not None
    assert (progress.sources[0].missing, progress.problems) == (1, ["b: the picture is frozen"])


@pytest.mark.parametrize("side", [32, 64])
def test_a_bug_in_resizing_is_raised_and_hangs_nothing(null: Inspector, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    def frames(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(1000):
            yield CapturedFrame.of(np.zeros((side, side), np.uint8), index, source.uri, str(index))

    fits = iter(range(1000))
    monkeypatch.setattr(
        "lrdan_edge.runtime.loop.capture_stage.fit_frame", lambda *_: BLACK[..., None] if next(fits) < 5 else 1 // 0
    )
    loop = InspectionLoop(null, Frames(frames), [sink := Collect()])
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert [one.verdict.outcome for one in sink.got] == ["good"] * 5 + ["fault"]


def test_frames_of_every_size_keep_their_order(null: Inspector) -> None:
    def frames(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(200):
            side = 32 if index % 7 else 64
            yield CapturedFrame.of(np.zeros((side, side), np.uint8), index, source.uri, str(index))

    sink = Collect()
    InspectionLoop(null, Frames(frames), [sink], batch=3).run()
    assert [one.frame.index for one in sink.got] == list(range(200))
    assert {one.verdict.outcome for one in sink.got} == {"good"}


def test_a_stop_that_comes_before_the_run_ends_it_at_once(null: Inspector) -> None:
    source = Frames(endless)
    loop = InspectionLoop(null, source)
    loop.stop()
    loop.stop()
    started = time.monotonic()
    loop.run()
    assert time.monotonic() - started < 5
    assert source.closed.is_set()


def test_as_many_batches_are_in_flight_as_the_backend_overlaps(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null.backend, "spec", dataclasses.replace(null.backend.spec, in_flight=2))
    monkeypatch.setattr(null, "warm_up", lambda _: None)
    together, infer = threading.Barrier(2), null.backend.infer
    monkeypatch.setattr(null.backend, "infer", lambda *args, **kw: (together.wait(timeout=20), infer(*args, **kw))[1])
    sink = Collect()
    progress = InspectionLoop(null, Frames(numbered(8)), [sink], batch=2).run()
    assert progress.outcomes["good"] == 8
    assert [one.frame.index for one in sink.got] == list(range(8))
