"""Inspected frames and gaps as JSON objects, and their numbers."""

import math
import threading
from collections.abc import Callable
from datetime import datetime, timezone

import msgspec

from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame

BLOCK = 10_000
"""Numbers that are reserved together."""


class Numbering:
    """The numbers of a run's frames in its folder, none of which any other run there has.

    Numbers are reserved in blocks before the first of each is used. However a run ends, and whatever becomes of its lines, the next
    one begins above them.

    Attributes:
        next: The number above all that were used.
    """

    def __init__(self, first: int = 0, sources: int = 1, reserve: Callable[[int], None] | None = None) -> None:
        """Start at a number.

        Args:
            first: The first number.
            sources: Number of sources, whose frames are numbered in turn.
            reserve: Records that numbers below the given one may be used, `first` + `BLOCK` already; may raise OSError. None:
                numbers need not be reserved.
        """
        self.next = self._first = first
        self._sources, self._reserve = sources, reserve
        self._reserved: float = math.inf if reserve is None else first + BLOCK
        self._lock = threading.Lock()

    def of(self, inspected: InspectedFrame) -> int:
        """The number of a frame; may raise OSError if it cannot be reserved."""
        number = self._first + inspected.frame.index * self._sources
        number += inspected.source_number if self._sources > 1 else 0
        with self._lock:
            if number >= self._reserved and self._reserve is not None:
                self._reserve(number + BLOCK)
                self._reserved = number + BLOCK
            self.next = max(self.next, number + 1)
        return number


def as_line(record: dict[str, object]) -> bytes:
    """An object as a line of JSON Lines."""
    return msgspec.json.encode(record) + b"\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def as_record(inspected: InspectedFrame, number: int | None = None, run: str = "") -> dict[str, object]:
    """An inspected frame as the JSON object of ``verdicts.jsonl``.

    Args:
        inspected: The frame.
        number: Its number; None: that in its source.
        run: The run's name; empty: the object names none.
    """
    frame = inspected.frame
    return {
        "index": frame.index if number is None else number,
        "name": frame.name,
        "source": frame.source,
        "time": _time(frame.wall_time),
        **inspected.verdict.as_dict(),
        "latency_ms": round(inspected.latency_ms, 3),
        **({"run": run} if run else {}),
    }


def as_gap_record(gap: Gap, number: int | None = None, run: str = "") -> dict[str, object]:
    """A gap as the JSON object of ``verdicts.jsonl``: a fault with the first lost frame's keys, and ``lost``, ``from`` and ``to``."""
    first, last = gap.first, gap.last
    start, end = _time(first.frame.wall_time), _time(last.frame.wall_time)
    record: dict[str, object] = {
        "index": first.frame.index if number is None else number,
        "name": first.frame.name,
        "source": first.frame.source,
        "time": start,
        "outcome": "fault",
        "score": None,
        "threshold": first.verdict.threshold,
        "p_value": None,
        "fault": f"{gap.count} verdicts were lost, from {start} to {end}: {gap.reason}",
        "lost": gap.count,
        "from": start,
        "to": end,
        "latency_ms": round(first.latency_ms, 3),
    }
    if run:
        record["run"] = run
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for key, value in record.items()
    }
