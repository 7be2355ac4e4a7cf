"""Percentiles of any number of durations in 30 KB: a histogram whose buckets grow with the value."""

from array import array

_BITS = 6  # 64 buckets per power of two: the middle of a bucket is within 1/128 of every value in it
_BUCKETS = (64 - _BITS) << _BITS
_LARGEST_NS = (1 << 63) - 1


class LatencyHistogram:
    """Counts durations by bucket, as HdrHistogram does: exact below 128 ns, within 0.8 % above. Call `record` from one thread only."""

    __slots__ = ("_counts", "count", "max_ns")

    def __init__(self) -> None:
        """Start empty."""
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self.count = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration in nanoseconds; negative ones count as 0."""
        value = 0 if duration_ns < 0 else min(duration_ns, _LARGEST_NS)
        shift = value.bit_length() - _BITS - 1
        self._counts[(shift << _BITS) + (value >> shift) if shift > 0 else value] += 1
        self.count += 1
        if value > self.max_ns:
            self.max_ns = value

    def percentile_ms(self, percent: float) -> float:
        """The smallest duration that `percent` (0 to 100) of all durations do not exceed, in ms; 0 while empty."""
        wanted, seen = percent / 100 * self.count, 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_middle(index), self.max_ns) / 1e6
        return 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """p50, p95, p99 and max (exact), in ms."""
        return {f"p{percent}": self.percentile_ms(percent) for percent in (50, 95, 99)} | {"max": self.max_ns / 1e6}


def _middle(index: int) -> float:
    """The middle of a bucket, in ns."""
    shift = (index >> _BITS) - 1
    if shift <= 0:
        return float(index)
    return float(((index & 63 | 64) << shift) + ((1 << shift) - 1) / 2)
