"""What `lrdan-edge bench` measured (``reports/benchmark.json``)."""

import msgspec


class BenchmarkEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One backend at one batch size.

    Attributes:
        title: Which backend and precision.
        batch: Frames per call.
        latency_ms: Percentiles of a call's duration by name (``p50``, ``p90``, ``p99``, ``max``), host to host.
        frames_per_s: Frames per second over all measured calls.
        speedup: Median over rounds of PyTorch eager's duration divided by this one's in the same round, or None without
            PyTorch.
        calls: How many calls were measured.
    """

    title: str
    batch: int
    latency_ms: dict[str, float]
    frames_per_s: float
    speedup: float | None
    calls: int


class BenchmarkReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``reports/benchmark.json``: everything measured in one interleaved run.

    Attributes:
        machine: The processor's name.
        instruction_set: What it computes int8 with; empty in reports from before it was recorded.
        cores: Cores that the process could use.
        versions: Versions of the packages involved.
        command: What repeats it.
        rounds: Turns that each backend got.
        entries: One per backend and batch size.
        not_measured: What could not be measured, and why.
    """

    schema_version: int
    machine: str
    cores: int
    versions: dict[str, str]
    command: str
    rounds: int
    entries: list[BenchmarkEntry]
    not_measured: list[str]
    instruction_set: str = ""
