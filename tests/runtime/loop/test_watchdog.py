"""A backend that hangs or crashes costs its frames, which become faults, and ends the run."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loop_parts import BLACK, Collect, Frames, constant, endless, numbered
from parts import Line

from lrdan_edge import Inspector
from lrdan_edge.backends.base import Detections
from lrdan_edge.errors import HungBackendError
from lrdan_edge.runtime.loop import InspectionLoop


@pytest.fixture
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end of the test, so that hanging calls return and the backend can be closed."""
    event = threading.Event()
    yield event
    event.set()


def hanging(infer: Callable[..., Detections], released: threading.Event, after: int) -> Callable[..., Detections]:
    calls = iter(range(1_000_000))

    def hang(*args: Any, **kwargs: Any) -> Detections:
        if next(calls) >= after:
            released.wait(60)
        return infer(*args, **kwargs)

    return hang


@pytest.mark.parametrize("in_flight", [1, 3])
def test_frames_in_a_backend_that_hangs_become_faults(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, released: threading.Event, in_flight: int
) -> None:
    monkeypatch.setattr(null.backend, "infer", hanging(null.backend.infer, released, 5))
    sink = Collect()
    loop = InspectionLoop(null, Frames(endless), [sink], deadline_s=0.5, in_flight=in_flight)
    started = time.monotonic()
    with pytest.raises(HungBackendError, match=r"has not answered for 0\.5 s"):
        loop.run()
    assert time.monotonic() - started < 10
    assert [one.frame.index for one in sink.got] == list(range(len(sink.got)))
    assert [one.verdict.outcome for one in sink.got[:5]] == ["good"] * 5
    assert len(sink.got) > 5
    assert {one.verdict.outcome for one in sink.got[5:]} == {"fault"}
    assert sink.closed


def test_a_request_to_stop_does_not_wait_for_a_backend_that_hangs(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(null.backend, "infer", hanging(null.backend.infer, released, 0))
    sink = Collect()
    loop = InspectionLoop(null, Frames(endless), [sink])
    threading.Timer(0.5, loop.stop).start()
    started = time.monotonic()
    with pytest.raises(HungBackendError, match="since the run was stopped"):
        loop.run()
    assert time.monotonic() - started < 10
    assert {one.verdict.outcome for one in sink.got} == {"fault"}
    assert sink.got[0].frame.index == 0


def test_a_warm_up_that_hangs_can_be_stopped(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(null, "warm_up", lambda _: released.wait(60))
    loop = InspectionLoop(null, Frames(numbered(3)))
    threading.Timer(0.2, loop.stop).start()
    with pytest.raises(HungBackendError):
        loop.run()


def test_a_slow_sink_does_not_hold_up_a_request_to_stop(null: Inspector) -> None:
    class Slow(Collect):
        retries = True
        gaps: list[int] = []  # noqa: RUF012

        def write_gap(self, gap: Any) -> None:
            self.gaps.append(gap.count)

        def flush(self) -> None:
            pass

    sink = Slow(delay_s=0.5)
    loop = InspectionLoop(null, Frames(endless), [sink])
    threading.Timer(0.5, loop.stop).start()
    started = time.monotonic()
    loop.run()
    assert time.monotonic() - started < 10
    assert len(sink.got) + sum(sink.gaps) == loop.progress.frames, "every frame is written, or counted in a gap"
    assert not loop.progress.complete


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), MemoryError("none left"), SystemExit(3)])
def test_frames_in_a_backend_that_crashes_become_faults(
    null: Inspector, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    calls, infer = iter(range(1_000_000)), null.backend.infer

    def crash(*args: Any, **kwargs: Any) -> Detections:
        if next(calls) == 5:
            raise error
        return infer(*args, **kwargs)

    monkeypatch.setattr(null.backend, "infer", crash)
    sink = Collect()
    with pytest.raises(Exception, match=type(error).__name__ if isinstance(error, SystemExit) else str(error)):
        InspectionLoop(null, Frames(endless), [sink]).run()
    assert [one.verdict.outcome for one in sink.got[:5]] == ["good"] * 5
    assert {one.verdict.outcome for one in sink.got[5:]} == {"fault"}
    assert type(error).__name__ in str(sink.got[5].verdict.fault)
    assert [one.frame.index for one in sink.got] == list(range(len(sink.got)))


def test_nothing_that_the_null_backend_saw_is_good(line: Line) -> None:
    with Inspector.open(line.bundle, backend="null") as inspector:
        assert inspector.inspect(BLACK)[0].outcome == "fault"
        sink = Collect()
        progress = InspectionLoop(inspector, Frames(numbered(20)), [sink]).run()
    assert {one.verdict.outcome for one in sink.got} == {"fault"}
    assert all(one.verdict.score is None and "null backend" in str(one.verdict.fault) for one in sink.got)
    assert not progress.complete
