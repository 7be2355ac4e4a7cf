"""The report of `lrdan-edge bench` (``reports/benchmark.json``)."""

import msgspec


class BenchmarkEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One backend at one batch size.

    Attributes:
        title: The backend and its precision.
        batch: Frames per call.
        latency_ms: Percentiles of a call's duration by name (``p50``, ``p90``, ``p99``, ``max``), host to host.
        frames_per_s: Frames per second over all measured calls.
        speedup: Duration of PyTorch eager divided by this backend's duration in the same round, median over all rounds; None
            without PyTorch.
        calls: Number of measured calls.
    """

    title: str
    batch: int
    latency_ms: dict[str, float]
    frames_per_s: float
    speedup: float | None
    calls: int


class BenchmarkReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``reports/benchmark.json``: all measurements of one interleaved run.

    Attributes:
        machine: The processor's name.
        instruction_set: The processor's instructions for int8; empty in reports from earlier versions.
        cores: Number of cores that the process could use.
        versions: Versions of the packages involved.
        command: The command that repeats the run.
        rounds: Number of rounds; each backend ran once per round.
        entries: One per backend and batch size.
        not_measured: Backends that could not be measured, with the reason.
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
