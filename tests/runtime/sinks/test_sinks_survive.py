"""What disks do to a run's records: they fill up, vanish and come back, and no frame is lost without a count."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loop_parts import BLACK, Collect, Frames, constant, numbered
from parts import Line

from lrdan_edge import Inspector
from lrdan_edge.errors import DataError, SinkError
from lrdan_edge.runtime.loop import InspectionLoop
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame, Sink
from lrdan_edge.runtime.sinks.files import VERDICTS, AnnotatedFramesSink, JsonLinesSink
from lrdan_edge.runtime.sinks.worker import SinkWorker
from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict

HEAT = np.zeros((32, 32), np.float32)
GOOD = Verdict("good", 0.0, 1.0, 0.5, HEAT)
REJECT = Verdict("reject", 2.0, 1.0, 0.01, HEAT)


@pytest.fixture
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


def frame(index: int, verdict: Verdict = GOOD, name: str = "") -> InspectedFrame:
    return InspectedFrame(CapturedFrame.of(BLACK, index, "test://", name or f"frame {index}"), verdict, 1.0)


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (folder / VERDICTS).read_text().splitlines()]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def break_disk(folder: Path, how: str) -> Callable[[], None]:
    """Break the disk of a folder; returns what heals it."""
    aside = folder.with_name("aside")
    if how == "full":
        (folder / VERDICTS).rename(aside)
        (folder / VERDICTS).symlink_to("/dev/full")
        return lambda: os.replace(aside, folder / VERDICTS)
    folder.rename(aside)
    folder.write_bytes(b"")  # nobody, not even root, can make a folder of this name

    def heal() -> None:
        folder.unlink()
        if how == "vanished":
            aside.rename(folder)

    return heal


@pytest.mark.parametrize("how", ["full", "vanished", "replaced"])
def test_a_broken_disk_is_tried_again_and_what_it_lost_is_counted_in_its_place(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    worker = SinkWorker(JsonLinesSink(out), size=4)
    worker.put_all([(frame(0), False)])
    until(lambda: (out / VERDICTS).read_bytes())
    heal = break_disk(out, how)
    for index in range(1, 20):
        worker.put_all([(frame(index), False)])
        time.sleep(0.005)
    until(lambda: worker.problems)
    lost = sum(worker.lost.values())
    assert 10 <= lost < 19
    assert "is tried again" in worker.problems[0]
    heal()
    until(lambda: any("works again" in problem for problem in worker.problems))
    worker.put_all([(frame(20), False)])
    worker.close()
    found = records(out)
    gaps = [one for one in found if "lost" in one]
    assert [one["lost"] for one in gaps] == [lost]
    assert {one["outcome"] for one in gaps} == {"fault"}
    assert set(found[-1]) <= set(gaps[0]), "readers find every key that they know"
    assert gaps[0]["from"] < gaps[0]["to"]  # type: ignore[operator]
    numbers = [one["index"] for one in found]
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]
    assert numbers[-1] == 20
    written = len(found) - 1 + (1 if how == "replaced" else 0)
    assert written + lost == 21
    assert not worker.stopped


def test_a_recorded_source_waits_for_the_disk_and_loses_nothing(null: Inspector, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = JsonLinesSink(out)
    heal = break_disk(out, "vanished")
    threading.Timer(0.5, heal).start()
    progress = InspectionLoop(null, Frames(numbered(600)), [sink]).run()
    assert progress.complete
    assert [one["index"] for one in records(out)] == list(range(600))


def test_a_disk_that_stays_broken_ends_the_run_with_an_error(null: Inspector, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink, other = JsonLinesSink(out), Collect()
    break_disk(out, "vanished")

    def quiet(source: Frames) -> Iterator[CapturedFrame]:
        """One frame, then none: the run ends although nothing happens any more."""
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        source.closed.wait(30)

    loop = InspectionLoop(null, Frames(quiet, live=True), [sink, other], sink_timeout_s=0.5)
    started = time.monotonic()
    with pytest.raises(SinkError, match=r"sink verdicts stopped: .* for 0\.5 s"):
        loop.run()
    assert time.monotonic() - started < 8
    assert len(other.got) == 1
    assert not loop.progress.complete


def test_a_call_of_a_sink_that_hangs_ends_the_run_with_an_error(null: Inspector) -> None:
    class Hanging(Collect):
        retries = True

        def write(self, inspected: InspectedFrame) -> None:  # noqa: ARG002
            released.wait(60)

        def write_gap(self, gap: Gap) -> None:
            pass

        def flush(self) -> None:
            pass

    released = threading.Event()
    started = time.monotonic()
    with pytest.raises(SinkError, match=r"has not answered for 0\.5 s"):
        InspectionLoop(null, Frames(numbered(500)), [Hanging()], sink_timeout_s=0.5).run()
    assert time.monotonic() - started < 10
    released.set()


def test_a_deleted_folder_is_made_again(null: Inspector, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def deleting(source: Frames) -> Iterator[CapturedFrame]:
        for index in range(6):
            if index == 3:
                until(lambda: len(list(out.glob("frames/*.png"))) == 3 and len(records(out)) == 3)
                shutil.rmtree(out)
            yield CapturedFrame.of(BLACK, index, source.uri, str(index))

    sinks: list[Sink] = [JsonLinesSink(out), AnnotatedFramesSink(out, "all")]
    InspectionLoop(null, Frames(deleting), sinks).run()
    assert [one["index"] for one in records(out)] == [3, 4, 5]
    assert sorted(path.name[:8] for path in (out / "frames").iterdir()) == ["00000003", "00000004", "00000005"]


def test_a_frame_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    worker = SinkWorker(JsonLinesSink(tmp_path))
    worker.put_all([(frame(0), True), (frame(1, name="\udcff"), True), (frame(2), True)])
    worker.close()
    assert [(one["index"], one["outcome"]) for one in records(tmp_path)] == [(0, "good"), (1, "fault"), (2, "good")]
    assert "UnicodeEncodeError" in str(records(tmp_path)[1]["fault"])
    assert worker.lost.total() == 1


def test_pictures_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = AnnotatedFramesSink(tmp_path, "all")

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(OSError, match="No space"):
        sink.write(frame(0, REJECT))
    assert list((tmp_path / "frames").iterdir()) == []
    sink.write(frame(1))
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["00000001-good.png"]


def test_only_one_run_writes_into_a_folder(tmp_path: Path) -> None:
    first = JsonLinesSink(tmp_path)
    first.write(frame(0))
    for mode in ({"append": True}, {"overwrite": True}):
        with pytest.raises(DataError, match="another run writes into"):
            JsonLinesSink(tmp_path, **mode)  # type: ignore[arg-type]
    first.write(frame(1))
    first.close()
    assert len(records(tmp_path)) == 2
    JsonLinesSink(tmp_path, append=True).close()


@pytest.mark.parametrize("mode", [{}, {"append": True}, {"overwrite": True}])
def test_a_truncated_file_gets_no_hole(tmp_path: Path, mode: dict[str, bool]) -> None:
    sink = JsonLinesSink(tmp_path, **mode)  # type: ignore[arg-type]
    for index in range(3):
        sink.write(frame(index))
    os.truncate(tmp_path / VERDICTS, 0)  # as logrotate's copytruncate does
    sink.write(frame(3))
    sink.close()
    assert [one["index"] for one in records(tmp_path)] == [3]


def test_two_runs_of_one_name_do_not_share_a_folder_of_pictures(tmp_path: Path) -> None:
    AnnotatedFramesSink(tmp_path, "all", run="20261126T210533Z")
    with pytest.raises(DataError, match="cannot be written"):
        AnnotatedFramesSink(tmp_path, "all", run="20261126T210533Z")


@pytest.mark.parametrize(("durable", "synced"), [("none", 0), ("rejects", 1), ("all", 3)])
def test_the_disk_is_waited_for_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: str, synced: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    sink = JsonLinesSink(tmp_path, durable=durable)  # type: ignore[arg-type]
    for verdict in (GOOD, REJECT, GOOD):
        sink.write(frame(len(calls), verdict))
        sink.flush()
    sink.close()
    assert len(calls) == synced


@pytest.mark.parametrize("lost", ["nothing", "pages", "size"])
def test_a_failed_sync_is_not_repaired_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """After a failed write-back, Linux marks the pages clean: the next sync succeeds, and the lines may be gone."""
    path, plain, safe, fails = tmp_path / VERDICTS, os.fdatasync, 0, iter([False, True, True])

    def sync(descriptor: int) -> None:
        nonlocal safe
        if not next(fails, False):
            plain(descriptor)
            safe = path.stat().st_size
            return
        if lost != "nothing":
            data = path.read_bytes()
            os.truncate(path, safe)
            if lost == "pages":
                path.write_bytes(data[:safe] + bytes(len(data) - safe))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", sync)
    worker = SinkWorker(JsonLinesSink(tmp_path, durable="all"))
    worker.put_all([(frame(0), True)])
    until(lambda: safe)
    worker.put_all([(frame(1), True), (frame(2), True)])
    until(lambda: any("works again" in problem for problem in worker.problems))
    worker.put_all([(frame(3), True)])
    worker.close()
    assert [one["index"] for one in records(tmp_path)] == [0, 1, 2, 3]
    assert "the disk may not have the last 2 lines" in worker.problems[0]
    assert safe == path.stat().st_size
    assert not worker.lost


def test_lines_that_could_not_be_synced_go_into_the_file_of_a_disk_that_comes_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLinesSink(tmp_path, durable="all")
    sink.write(frame(0))

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="the last 1 lines"):
            sink.flush()
        (tmp_path / VERDICTS).rename(tmp_path / "moved")
        sink.write(frame(1))
    sink.flush()
    sink.close()
    assert [one["index"] for one in records(tmp_path)] == [0, 1]


def test_good_verdicts_wait_for_the_disk_too_before_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    monkeypatch.setattr("lrdan_edge.runtime.sinks.appended_file.MOST_PENDING", 1000)
    sink = JsonLinesSink(tmp_path)
    for index in range(20):
        sink.write(frame(index))
        sink.flush()
    sink.close()
    assert 1 < len(calls) < 10
