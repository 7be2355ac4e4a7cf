import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loop_parts import BLACK, Collect, Frames, constant, endless, numbered
from parts import Line, good_image, write

from lrdan_edge import Inspector
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import DataError, SourceAddressError, SourceError
from lrdan_edge.runtime.loop import InspectionLoop
from lrdan_edge.runtime.loop.opening import FailedSource, open_sources
from lrdan_edge.runtime.loop.progress import SourceProgress
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, JsonLinesSink
from lrdan_edge.runtime.sources.base import CapturedFrame


@pytest.fixture
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_each_sources_frames_are_all_inspected_in_order(null: Inspector, batch: int) -> None:
    counts = [200, 1, 0, 57]
    sink = Collect()
    sources = [Frames(numbered(count), uri=str(number)) for number, count in enumerate(counts)]
    progress = InspectionLoop(null, sources, [sink], batch=batch).run()
    for number, count in enumerate(counts):
        mine = [one for one in sink.got if one.source_number == number]
        assert [one.frame.index for one in mine] == list(range(count))
        assert {one.frame.source for one in mine} <= {str(number)}
        assert progress.sources[number].frames == count
        assert progress.sources[number].ended
    assert progress.frames == sum(counts)


def test_batches_are_formed_across_sources(null: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    infer = null.backend.infer

    def slow(frames: Frame, *, heatmap: bool = True) -> object:
        sizes.append(len(frames))
        time.sleep(0.01)
        return infer(frames, heatmap=heatmap)

    monkeypatch.setattr(null.backend, "infer", slow)
    InspectionLoop(null, [Frames(numbered(20)) for _ in range(4)], batch=4).run()
    full = sizes[1:].count(4)  # the first is warm-up
    assert full >= 15, "one frame of each source"


def test_no_source_starves(null: Inspector) -> None:
    loop = InspectionLoop(null, [Frames(endless) for _ in range(8)], batch=4)
    threading.Timer(1.0, loop.stop).start()
    counts = [source.frames for source in loop.run().sources]
    assert min(counts) > 10
    assert max(counts) / min(counts) <= 1.2


def test_one_source_that_dies_does_not_stop_the_others_and_is_reported_at_the_end(null: Inspector) -> None:
    def dying(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "a")
        raise SourceError("the camera is gone")

    sink = Collect()
    loop = InspectionLoop(null, [Frames(numbered(100)), Frames(dying), Frames(numbered(100))], [sink], batch=4)
    with pytest.raises(SourceError, match="the camera is gone"):
        loop.run()
    assert [source.frames for source in loop.progress.sources] == [100, 2, 100]
    dead = loop.progress.sources[1]
    assert (dead.gaps, dead.missing, dead.faults) == (1, 1, 1)
    assert [one.verdict.outcome for one in sink.got if one.source_number == 1] == ["good", "fault"]
    assert loop.progress.problems == ["frame 1: the camera is gone"]
    assert loop.progress.drops == {"queue full": 0, "slow sink": 0, "failed sink": 0, "fault of source": 1}


def test_all_sources_that_die_are_named(null: Inspector) -> None:
    dead = [FailedSource(name, SourceError(f"{name} is gone")) for name in ("left", "right")]
    with pytest.raises(SourceError, match="2 of 3 sources failed: left is gone; right is gone"):
        InspectionLoop(null, [*dead, Frames(numbered(5))]).run()


def test_no_source_is_refused(null: Inspector) -> None:
    with pytest.raises(DataError, match="no source"):
        InspectionLoop(null, [])


def test_a_gap_counts_once_however_many_frames_it_lasts() -> None:
    source = SourceProgress("camera", live=True)
    for second, missing in enumerate([False, True, True, False, False, True]):
        source.saw(second * 10**9, missing=missing)
    assert (source.gaps, source.missing, source.gap_s, source.in_gap) == (2, 3, 3.0, True)
    source.finish(9 * 10**9)
    assert (source.gap_s, source.in_gap) == (8.0, False)


def test_sources_that_cannot_be_opened_are_replaced_by_failed_sources(tmp_path: Path) -> None:
    write(tmp_path / "a.png", BLACK)
    good, dead = open_sources([str(tmp_path / "a.png"), str(tmp_path / "none.mp4")])
    assert good.frames == 1
    assert isinstance(dead, FailedSource)
    assert "none.mp4" in str(dead.error)
    with pytest.raises(SourceAddressError, match=r"none\.mp4"):
        open_sources([str(tmp_path / "none.mp4")])
    secret = open_sources([str(tmp_path / "a.png"), "rtp://user:secret@camera/1"])[1]
    assert isinstance(secret, FailedSource)
    assert "secret" not in secret.uri + str(secret.error)
    with pytest.raises(SourceError, match="none of the 2 sources"):
        open_sources([str(tmp_path / "none.mp4"), str(tmp_path / "other.mp4")])


def test_verdicts_and_images_of_two_folders_are_not_mixed(line: Line, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for camera in ("left", "right"):
        for index in range(3):
            write(tmp_path / camera / f"{index}.png", good_image(rng))
    out = tmp_path / "out"
    sinks: list[Sink] = [JsonLinesSink(out), AnnotatedFramesSink(out, "all", sources=2)]
    with Inspector.open(line.bundle, backend="onnxruntime", precision="fp32") as inspector:
        InspectionLoop(inspector, open_sources([str(tmp_path / "left"), str(tmp_path / "right")]), sinks, batch=4).run()
    records = [json.loads(text) for text in (out / "verdicts.jsonl").read_text().splitlines()]
    for camera in ("left", "right"):
        assert [one["index"] for one in records if one["source"].endswith(camera)] == [0, 1, 2]
    assert len(list((out / "frames" / "0").iterdir())) == len(list((out / "frames" / "1").iterdir())) == 3
