"""The thread that writes to a sink, so that a slow or failing sink does not delay inspection."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from lrdan_edge.errors import SinkError
from lrdan_edge.runtime.histogram import LatencyHistogram
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame, RecordingSink, Sink, UndeliveredError, without_pictures

_PAUSES_S = (0.05, 0.5)  # first and longest pause between attempts
_MOST_PROBLEMS = 50
SINK_TIMEOUT_S = 60.0


class SinkWorker:
    """Writes frames to one sink from a separate thread.

    A `RecordingSink` that fails is tried again. Frames that find no room meanwhile are counted, and the sink records them as a
    gap when it works again. Any other sink that fails receives no more frames; inspection continues.

    Attributes:
        problems: Its failures and recoveries, in words, at most 50.
        more_problems: Number of those that are not among them.
        lost: Number of frames that it did not receive because it had failed, by the number of their source.
        stopped: Whether it has failed for good.
        latency: Time from verdict until the sink has written the frame.
        attempt: Number of the call of the sink that is running now; None between calls.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        size: int | None = None,
        timeout_s: float = SINK_TIMEOUT_S,
        on_timeout: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start the thread.

        Args:
            sink: The sink; `close` closes it.
            size: Most frames that wait; None: as the sink says, or else 16 with images, or 256 without.
            timeout_s: A recording sink that fails for this many seconds has failed for good.
            on_timeout: Called with the reason when a recording sink has failed for good.
        """
        self.name = sink.name
        self.problems: list[str] = []
        self.more_problems = 0
        self.lost: Counter[int] = Counter()
        self.stopped = False
        self.latency = LatencyHistogram()
        self.attempt: int | None = None
        self._sink = sink
        self._recording: RecordingSink | None = sink if getattr(sink, "retries", False) else None  # type: ignore[assignment]
        self._size = size or int(getattr(sink, "queue_size", 16 if sink.pictures else 256))
        self._wants: Callable[[InspectedFrame], bool] = getattr(sink, "wants", lambda _: True)
        self._timeout_s, self._on_timeout = timeout_s, on_timeout
        self._waiting: deque[InspectedFrame | Gap] = deque()
        self._changed = threading.Condition()
        self._closed = self._hurried = False
        self._give_up_at = float("inf")
        self._down_since: float | None = None
        self._why = ""
        self._attempts = 0
        self._thread = threading.Thread(target=self._deliver, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def put_all(self, frames: Sequence[tuple[InspectedFrame, bool]]) -> list[InspectedFrame]:
        """Queue frames for the sink.

        Args:
            frames: Each frame, and whether to wait for room in a full queue (recorded sources) or to drop the frame (live
                sources).

        Returns:
            The frames that were dropped because the sink is too slow.
        """
        dropped: list[InspectedFrame] = []
        with self._changed:
            for inspected, wait in frames:
                if not self._wants(inspected):
                    continue
                while wait and len(self._waiting) >= self._size and not (self.stopped or self._hurried):
                    self._changed.wait()
                if self.stopped:
                    self.lost[inspected.source_number] += 1
                    continue
                if len(self._waiting) >= self._size:
                    if self._down_since is None and not wait:
                        dropped.append(inspected)
                    else:
                        self.lost[inspected.source_number] += 1
                    self._lose(inspected)
                    continue
                if not self._waiting:
                    self._changed.notify_all()
                self._waiting.append(inspected if self._sink.pictures else without_pictures(inspected))
        return dropped

    def _lose(self, inspected: InspectedFrame) -> None:
        """Remember a lost frame at its place in the queue: in the gap that is last there, or in a new one."""
        if self._recording is None:
            return
        bare = without_pictures(inspected)
        for item in reversed(self._waiting):
            if not isinstance(item, Gap):
                break
            if item.first.source_number == inspected.source_number:
                item.add(bare)
                return
        self._waiting.append(Gap(bare, bare, 1, self._why if self._down_since is not None else "the sink was too slow"))

    def hurry(self, give_up_at: float) -> None:
        """Let nobody wait for room any more, and write what waits until `give_up_at` (``time.monotonic``), at most."""
        with self._changed:
            self._hurried, self._give_up_at = True, min(self._give_up_at, give_up_at)
            self._changed.notify_all()

    def stop(self, why: str) -> None:
        """Declare the sink failed for good; callable from any thread, even if a call of the sink hangs."""
        with self._changed:
            if self.stopped:
                return
            self.stopped = True
            for item in self._waiting:
                first = item.first if isinstance(item, Gap) else item
                self.lost[first.source_number] += 0 if isinstance(item, Gap) else 1
            self._waiting.clear()
            self.problems.append(f"sink {self.name} stopped: {why}")
            self._changed.notify_all()
        if self._recording is not None:
            self._on_timeout(f"sink {self.name} stopped: {why}")

    def close(self, hung: Callable[[], bool] = lambda: False) -> None:
        """Write the waiting frames, then close the sink.

        Args:
            hung: Asked from time to time whether to wait no longer.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while self._thread.is_alive() and not hung():
            self._thread.join(0.2)
        if self._thread.is_alive():
            self.stop("it has not answered until the end of the run")

    def _deliver(self) -> None:
        while items := self._take():
            while items:
                item = items.pop(0)
                if time.monotonic() >= self._give_up_at and not isinstance(item, Gap):
                    self._abandon([item, *items])
                    items.clear()
                elif isinstance(item, Gap):
                    self._write_gap(item)
                elif self._attempt(partial(self._sink.write, item), item):
                    self.latency.record(time.monotonic_ns() - item.decided_ns)
            if self._recording is not None:
                self._attempt(self._recording.flush)
        if self.stopped:
            with suppress(Exception):
                self._sink.close()
        else:
            self._attempt(self._sink.close)

    def _take(self) -> list[InspectedFrame | Gap]:
        """The next frames, at most half of the queue's size, so that the queue gets room before all are written; none at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            items = [self._waiting.popleft() for _ in range(min(len(self._waiting), max(1, self._size // 2)))]
            self._changed.notify_all()
            return items

    def _abandon(self, items: list[InspectedFrame | Gap]) -> None:
        """Record what still waits as gaps: there is no time to write it."""
        with self._changed:
            items += self._waiting
            self._waiting.clear()
        gaps: dict[int, Gap] = {}
        for item in items:
            if isinstance(item, Gap):
                self._write_gap(item)
                continue
            self.lost[item.source_number] += 1
            bare = without_pictures(item)
            if item.source_number in gaps:
                gaps[item.source_number].add(bare)
            else:
                gaps[item.source_number] = Gap(bare, bare, 1, "the run was stopped before they were written")
        for gap in gaps.values():
            self._write_gap(gap)

    def _write_gap(self, gap: Gap) -> None:
        recording = self._recording
        if recording is not None and self._attempt(partial(recording.write_gap, gap)):
            self._note(f"sink {self.name} lost {gap.count} frames of {gap.first.frame.source} ({gap.reason})")

    def _attempt(self, action: Callable[[], None], frame: InspectedFrame | None = None) -> bool:
        """Call the sink until it succeeds; False if it failed for good, or cannot write this frame.

        Args:
            action: The call.
            frame: The frame that is lost if the call fails.
        """
        pause = _PAUSES_S[0]
        while not self.stopped:
            self._attempts += 1
            self.attempt = self._attempts
            try:
                action()
            except OSError as error:
                why = f"{error.strerror or error} ({error.filename or 'no file'})"
                if self._recording is None or not self._can_wait(why):
                    self.stop(why if self._recording is None else f"{why}, for {self._timeout_s:g} s")
            except SinkError as error:
                self.stop(str(error))
            except UndeliveredError as error:
                return self._lost_on_the_way(frame, error)
            except Exception as error:  # a bug must not end the thread: the loop would wait for it forever
                why = f"{type(error).__name__}: {error}"
                if self._recording is None:
                    self.stop(why)
                elif frame is not None:
                    return self._skip(frame, why)
                else:
                    self._note(f"sink {self.name}: {why}")
                    return False
            else:
                if self._down_since is not None:
                    self._note(f"sink {self.name} works again after {time.monotonic() - self._down_since:.1f} s")
                self._down_since = None
                return True
            finally:
                self.attempt = None
            time.sleep(0 if self.stopped else pause)
            pause = min(2 * pause, _PAUSES_S[1])
        if frame is not None:
            with self._changed:
                self.lost[frame.source_number] += 1
        return False

    def _lost_on_the_way(self, frame: InspectedFrame | None, error: UndeliveredError) -> bool:
        """Count a frame that the sink could not deliver, and stop the sink if it has delivered none for too long."""
        if frame is not None:
            with self._changed:
                self.lost[frame.source_number] += error.lost
        if not self._can_wait(str(error)):
            self.stop(f"{error}, for {self._timeout_s:g} s")
        return False

    def _can_wait(self, why: str) -> bool:
        """Note that the sink is down; False if it has been for too long."""
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
            self._note(f"sink {self.name} fails and is tried again: {why}")
        self._why = why
        return now < min(self._down_since + self._timeout_s, self._give_up_at)

    def _skip(self, frame: InspectedFrame, why: str) -> bool:
        """Record only that a frame is lost which the sink cannot write, whatever it is; the next one may be another."""
        self._note(f"sink {self.name} cannot write a frame: {why}")
        with self._changed:
            self.lost[frame.source_number] += 1
        bare = without_pictures(frame)
        self._write_gap(Gap(bare, bare, 1, why))
        return False

    def _note(self, problem: str) -> None:
        with self._changed:
            if problem in self.problems:
                return
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(problem)
            else:
                self.more_problems += 1
