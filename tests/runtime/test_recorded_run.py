"""A run recorded through the library: the same files as the command writes."""

import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loop_parts import BLACK, Frames, constant, numbered
from parts import Line, good_image, write

from lrdan_edge import Inspector, open_source
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.recorded_run import RecordedRun
from lrdan_edge.runtime.sources.base import CapturedFrame


def test_a_run_records_verdicts_frames_and_its_result(line: Line, tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "parts" / f"{index}.png", good_image(np.random.default_rng(index)))
    out = tmp_path / "out"
    with Inspector.open(line.bundle, backend="onnxruntime", precision="fp32") as inspector:
        progress = RecordedRun(inspector, [open_source(tmp_path / "parts")], out).run()
        assert progress.complete
        assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(progress.as_dict()))
        assert len((out / "verdicts.jsonl").read_text().splitlines()) == len(list((out / "frames").iterdir())) == 3
        with pytest.raises(DataError, match="give append=True or overwrite=True"):
            RecordedRun(inspector, [open_source(tmp_path / "parts")], out)
        with pytest.raises(DataError, match="choose one of append and overwrite"):
            RecordedRun(inspector, [open_source(tmp_path / "parts")], out, append=True, overwrite=True)
        (tmp_path / "parts" / "1.png").write_bytes(b"damaged")
        again = RecordedRun(inspector, [open_source(tmp_path / "parts")], out, "none", append=True).run()
    assert not again.complete, "a fault of a recorded source"
    assert len((out / "verdicts.jsonl").read_text().splitlines()) == 6


def test_a_run_records_sources_whose_certificate_was_not_checked(line: Line, tmp_path: Path) -> None:
    plain, unverified = Frames(numbered(1), live=True), Frames(numbered(1), live=True)
    unverified.uri, unverified.unverified = "https://camera/main", True
    with constant(line.bundle) as inspector:
        RecordedRun(inspector, [plain, unverified], tmp_path / "out", "none").run()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["unverified_sources"] == ["https://camera/main"]
    assert json.loads((tmp_path / "out" / "runs.jsonl").read_text())["unverified_sources"] == ["https://camera/main"]


def test_without_a_folder_nothing_is_recorded_and_live_faults_do_not_fail_the_run(line: Line, tmp_path: Path) -> None:
    with constant(line.bundle) as inspector:
        run = RecordedRun(inspector, [Frames(numbered(5), live=True)], None)
        run.run()
    assert run.progress.complete
    assert run.progress.frames + run.progress.dropped == 5
    assert list(tmp_path.iterdir()) == []


def test_deprecated_names_work_and_name_their_replacement(line: Line) -> None:
    with (
        Inspector.open(line.bundle, backend="null") as inspector,
        pytest.warns(DeprecationWarning, match=r"Inspector\.thresholder"),
    ):
        assert inspector.judge is inspector.thresholder
    with pytest.warns(DeprecationWarning, match="RuleFilter"):
        from lrdan_edge.runtime.decider import Decider
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from lrdan_edge.runtime.rule_filter import RuleFilter
    assert Decider is RuleFilter


def indexes(out: Path) -> list[int]:
    return [json.loads(line)["index"] for path in sorted(out.glob("verdicts.jsonl*")) for line in path.read_text().splitlines()]


def uneven() -> list[Frames]:
    """Of two sources, the one that begins later has few frames, and is last in the file."""

    def long(source: Frames) -> Iterator[CapturedFrame]:
        yield from numbered(3000)(source)
        other.set()

    def late(source: Frames) -> Iterator[CapturedFrame]:
        yield CapturedFrame.of(BLACK, 0, source.uri, "x" * 3000)
        other.wait(20)
        for index in range(1, 400):
            yield CapturedFrame.of(BLACK, index, source.uri, "x" * 3000)  # more than the last quarter of a MiB of the file

    other = threading.Event()
    return [Frames(long), Frames(late)]


@pytest.mark.parametrize("before", ["ended", "killed", "rotated", "torn", "no record"])
def test_no_number_comes_twice_in_a_folder(line: Line, tmp_path: Path, before: str) -> None:
    out = tmp_path / "out"
    with constant(line.bundle) as inspector:
        RecordedRun(inspector, uneven(), out, "none", durable="none").run()
        told = json.loads((out / "run.json").read_text())
        if before in ("killed", "rotated", "torn"):
            killed = {**told, "ended": None, "next_index": 10_000}
            (out / "run.json").write_text(json.dumps(killed))
        if before == "rotated":
            (out / "verdicts.jsonl").rename(out / "verdicts.jsonl.1")
        if before == "torn":
            os.truncate(out / "verdicts.jsonl", (out / "verdicts.jsonl").stat().st_size - 7)
        if before == "no record":
            (out / "run.json").unlink()
        for _ in range(2):
            RecordedRun(inspector, uneven(), out, "none", append=True, durable="none").run()
    found = indexes(out)
    assert told["next_index"] == 5999
    assert len(found) == len(set(found)) == 3 * 3400 + (before in ("killed", "rotated", "torn")) - (before == "torn")


def test_numbers_are_reserved_before_they_are_used(line: Line, tmp_path: Path) -> None:
    with constant(line.bundle) as inspector:
        reserved: list[int] = []

        def watched(source: Frames) -> Iterator[CapturedFrame]:
            for index in range(0, 40_000, 5000):
                yield CapturedFrame.of(BLACK, index, source.uri, "a")
                deadline = time.monotonic() + 20
                while index not in indexes(tmp_path):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                reserved.append(json.loads((tmp_path / "run.json").read_text())["next_index"] - index)

        RecordedRun(inspector, [Frames(watched)], tmp_path, "none").run()
    assert len(reserved) == 8
    assert min(reserved) > 0
    assert json.loads((tmp_path / "run.json").read_text())["next_index"] == 35_001
