"""Whatever the sources, batches and sinks: every frame is accounted for, and nothing hangs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loop_parts import BLACK, Collect, Frames, constant
from parts import Line

from lrdan_edge import Inspector
from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.loop import InspectionLoop
from lrdan_edge.runtime.sources.base import CapturedFrame


@dataclass(frozen=True)
class Plan:
    """What a source does: `kinds` of its frames, whether it is live, and whether it dies at the end."""

    kinds: str
    live: bool
    dies: bool

    def source(self, number: int) -> Frames:
        def make(source: Frames) -> Iterator[CapturedFrame]:
            for index, kind in enumerate(self.kinds):
                if kind == "s":
                    time.sleep(0.001)
                if kind == "m":
                    yield CapturedFrame.missing("lost", index, source.uri, f"frame {index}")
                else:
                    yield CapturedFrame.of(BLACK, index, source.uri, f"frame {index}")
            if self.dies:
                raise SourceError(f"{number} is gone")

        return Frames(make, live=self.live, uri=str(number))


PLANS = st.lists(st.builds(Plan, st.text("fms", max_size=30), st.booleans(), st.booleans()), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def null(line: Line) -> Iterator[Inspector]:
    with constant(line.bundle) as inspector:
        yield inspector


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=PLANS, batch=st.integers(1, 6), in_flight=st.integers(1, 3), delay_s=st.sampled_from([0.0, 0.0005]))
def test_every_frame_is_accounted_for(null: Inspector, plans: list[Plan], batch: int, in_flight: int, delay_s: float) -> None:
    sink = Collect(delay_s=delay_s)
    loop = InspectionLoop(
        null, [plan.source(number) for number, plan in enumerate(plans)], [sink], batch=batch, in_flight=in_flight
    )
    deaths = sum(plan.dies for plan in plans)
    if deaths:
        with pytest.raises(SourceError, match="is gone"):
            loop.run()
    else:
        loop.run()
    for number, (plan, told) in enumerate(zip(plans, loop.progress.sources, strict=True)):
        produced = len(plan.kinds) + plan.dies
        assert told.frames + told.dropped == produced
        assert told.dropped == 0 or plan.live
        got = [one for one in sink.got if one.source_number == number]
        indices = [one.frame.index for one in got]
        assert indices == sorted(set(indices)), "in order, none twice"
        assert len(got) + told.undelivered == told.frames
        if produced and not told.undelivered:
            assert indices[-1] == produced - 1, "the newest is always judged"
        if not plan.live:
            assert [one.verdict.outcome == "fault" for one in got] == [kind == "m" for kind in plan.kinds] + [True] * plan.dies
        assert told.outcomes["fault"] == told.missing == told.faults
        assert (told.error is not None) == plan.dies
        assert told.ended
    assert loop.progress.latency["total"].count == loop.progress.frames
