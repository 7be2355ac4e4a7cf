import threading
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.runtime.loop.frame_queue import FrameQueue, ReadyFrame
from lrdan_edge.runtime.loop.reorder_buffer import ReorderBuffer
from lrdan_edge.runtime.sources.base import CapturedFrame

BLACK = np.zeros((2, 2), np.uint8)


def ready(source: int, index: int) -> ReadyFrame:
    return ReadyFrame(source, CapturedFrame.of(BLACK, index, str(source), str(index)), BLACK, None)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 9))
def test_batches_take_turns_and_keep_each_sources_order(counts: list[int], most: int) -> None:
    frame_queue = FrameQueue([(max(1, count), "every") for count in counts])
    for source, count in enumerate(counts):
        for index in range(count):
            frame_queue.put(ready(source, index))
    frame_queue.end()
    taken: list[ReadyFrame] = []
    for number in range(100):
        sequence, batch = frame_queue.take(most)
        assert sequence == number
        if not batch:
            break
        assert len(batch) == min(most, sum(counts) - len(taken)), "as full as it can be"
        taken += batch
        seen = Counter(one.source for one in taken)
        waiting = [source for source, count in enumerate(counts) if seen[source] < count]
        for source in waiting:
            assert seen[source] >= max(seen.values()) - 1, "no source with frames waiting is more than one turn behind"
    for source, count in enumerate(counts):
        assert [one.frame.index for one in taken if one.source == source] == list(range(count))


@given(st.integers(1, 5), st.integers(0, 20))
def test_latest_keeps_the_newest_and_counts_the_rest(size: int, count: int) -> None:
    frame_queue = FrameQueue([(size, "latest")])
    for index in range(count):
        frame_queue.put(ready(0, index))
    frame_queue.end()
    _, batch = frame_queue.take(100)
    assert [one.frame.index for one in batch] == list(range(max(0, count - size), count))
    assert frame_queue.dropped(0) == count - len(batch)


@given(st.integers(1, 3), st.lists(st.booleans(), max_size=20))
def test_latest_keeps_a_fault_despite_newer_frames(size: int, faulty: list[bool]) -> None:
    """A gap that is dropped would go unnoticed."""
    frame_queue = FrameQueue([(size, "latest")])
    for index, fault in enumerate(faulty):
        one = ready(0, index)
        frame_queue.put(one._replace(resized=None, fault="gone") if fault else one)
    frame_queue.end()
    _, batch = frame_queue.take(100)
    assert len(batch) <= size + 1
    assert any(one.resized is None for one in batch) == any(faulty)
    kept = [one.frame.index for one in batch]
    assert kept == sorted(kept)
    assert frame_queue.dropped(0) == len(faulty) - len(batch)
    if faulty:
        assert kept[-1] == len(faulty) - 1, "the newest is there"


def test_a_source_that_ends_does_not_end_the_others() -> None:
    frame_queue = FrameQueue([(2, "every"), (2, "every")])
    frame_queue.end(0)
    frame_queue.put(ready(0, 0))
    frame_queue.put(ready(1, 0))
    assert [one.source for one in frame_queue.take(9)[1]] == [1]
    frame_queue.end(1)
    assert frame_queue.take(9)[1] == []


@given(st.permutations(range(7)), st.integers(1, 3))
def test_a_reorder_buffer_restores_the_order(order: list[int], producers: int) -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(7, producers)
    for number in order:
        buffer.put(number, number * 10)
    for _ in range(producers):
        buffer.leave()
    assert [buffer.get() for _ in range(8)] == [*range(0, 70, 10), None]


def test_a_reorder_buffer_blocks_a_producer_that_is_ahead_until_abandoned() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(1, 1)
    buffer.put(0, 0)
    ahead = threading.Thread(target=buffer.put, args=(1, 1))
    ahead.start()
    ahead.join(timeout=0.05)
    assert ahead.is_alive()
    buffer.abandon()
    ahead.join(timeout=5)
    assert not ahead.is_alive()
    assert buffer.get() is None


def test_a_fault_for_a_hanging_backend_does_not_wait_for_a_hanging_sink() -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(1, 1)
    for number in range(3):
        buffer.put(number, number, wait=False)
    buffer.leave()
    assert [buffer.get() for _ in range(4)] == [0, 1, 2, None]
