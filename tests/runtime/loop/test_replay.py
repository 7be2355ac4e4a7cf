"""A recording replays to the verdicts that the live run gave."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loop_parts import Collect, Frames
from parts import Line, defective_image, good_image, write

from lrdan_edge import Inspector, Rule, open_source
from lrdan_edge.runtime.loop import InspectionLoop
from lrdan_edge.runtime.rule import parse_region
from lrdan_edge.runtime.sources.base import CapturedFrame

RULES = [
    None,
    Rule(reject_after=(2, 3)),
    Rule(reject_after=(3, 5), min_share=0.02),
    Rule(min_pixels=3, regions=(parse_region("middle=0.25,0.25,0.5,0.5:threshold+0.5"), parse_region("rim=0,0,1,0.1:inf"))),
]


@pytest.mark.parametrize("rule", RULES)
def test_a_recording_of_a_live_run_replays_to_the_same_verdicts(line: Line, tmp_path: Path, rule: Rule | None) -> None:
    rng = np.random.default_rng(5)
    images = [defective_image(rng)[0] if rng.random() < 0.4 else good_image(rng) for _ in range(120)]

    def camera(source: Frames) -> Iterator[CapturedFrame]:
        for index, image in enumerate(images):
            time.sleep(0.001)
            if index % 17 == 5:
                yield CapturedFrame.missing("signal lost", index, source.uri, f"frame {index}")
            else:
                yield CapturedFrame.of(image, index, source.uri, f"frame {index}")

    live, again = Collect(), Collect()
    with Inspector.open(line.bundle, backend="onnxruntime", precision="fp32") as inspector:
        progress = InspectionLoop(inspector, Frames(camera, live=True), [live], rule=rule).run()
        assert progress.frames + progress.dropped == len(images)
        for number, one in enumerate(live.got):
            path = tmp_path / f"{number}.png"
            if one.frame.image is None:
                path.write_bytes(b"lost")  # a file that cannot be read is a missing frame
            else:
                write(path, one.frame.image)
        InspectionLoop(inspector, open_source(tmp_path), [again], rule=rule).run()
    said = [(one.verdict.outcome, one.verdict.own_outcome, one.verdict.score, one.verdict.area) for one in live.got]
    assert [(one.verdict.outcome, one.verdict.own_outcome, one.verdict.score, one.verdict.area) for one in again.got] == said
    assert {outcome for outcome, *_ in said} == {"good", "reject", "fault"}
    if rule and rule.reject_after != (1, 1):
        assert any(outcome != own for outcome, own, *_ in said)
