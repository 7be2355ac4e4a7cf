"""What a bundle's ``manifest.json`` and ``decision.json`` hold: plain, strict, versioned.

Unknown keys, missing keys and wrong types are errors: a manifest of another schema is refused, never guessed at.
"""

import hashlib
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from lrdan_edge.bundle.view import Geometry, Share, Size, tile_starts
from lrdan_edge.errors import BundleError

SCHEMA_VERSION = 1

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

BitDepth = Literal[8, 10, 12, 14, 16]
BIT_DEPTHS: tuple[BitDepth, ...] = (8, 10, 12, 14, 16)

EngineTarget = Literal["tensorrt", "openvino", "onnxruntime"]
ENGINE_TARGETS: tuple[EngineTarget, ...] = ("tensorrt", "openvino", "onnxruntime")

ThresholdRule = Literal["conformal", "best-f1", "recall"]
THRESHOLD_RULES: tuple[ThresholdRule, ...] = ("conformal", "best-f1", "recall")


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shape of the networks; enough to rebuild AE2 around the weights.

    Attributes:
        recipe: The training recipe the networks belong to.
        height: Rows of the image the networks see, in pixels.
        width: Columns of the image the networks see, in pixels.
        channels: 1 (grey) or 3 (blue, green, red).
        base_channels: Feature maps after the first convolution; doubled at every further downsampling.
        latent_channels: Feature maps of the latent code.
        downsamplings: How often the encoder halves the image.
        decoder: ``resize`` (nearest upsampling, then convolution: quantises everywhere) or ``transposed`` (the paper's).
        architecture: ``autoencoder`` (the paper's AE2), or ``restorer``: AE2 with skip connections, which adds what it restores
            to its input and marks defects in a second output.
        code: Whether the autoencoder's code keeps its place in the image (``spatial``) or is one ``vector`` per image.
        geometry: How the deploy graph makes the networks' images of a camera's frame, or None where a frame is one image.
    """

    recipe: str
    height: Size
    width: Size
    channels: Literal[1, 3]
    base_channels: Size
    latent_channels: Size
    downsamplings: Annotated[int, msgspec.Meta(ge=0, le=16)]
    decoder: Literal["resize", "transposed"]
    architecture: Literal["autoencoder", "restorer"] = "autoencoder"
    code: Literal["spatial", "vector"] = "spatial"
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        """Refuse tiles that do not fit their canvas."""
        if self.geometry:
            _ = self.tile_rows, self.tile_columns

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one frame at the deploy graph's input."""
        rows, columns = self.geometry.frame if self.geometry else (self.height, self.width)
        return (rows, columns, self.channels)

    @property
    def heatmap_shape(self) -> tuple[int, int]:
        """Shape (h, w) of the heatmap: the networks' images', or the canvas's that their tiles are stitched to."""
        return self.geometry.canvas if self.geometry else (self.height, self.width)

    @property
    def tile_rows(self) -> list[int]:
        """The canvas's row where each row of tiles begins."""
        return tile_starts(self.heatmap_shape[0], self.height, self.geometry.tiles[0] if self.geometry else 1)

    @property
    def tile_columns(self) -> list[int]:
        """The canvas's column where each column of tiles begins."""
        return tile_starts(self.heatmap_shape[1], self.width, self.geometry.tiles[1] if self.geometry else 1)

    @property
    def region_share(self) -> Share | None:
        """The part of a frame that the heatmap shows, or None for all of it."""
        return self.geometry.region_share if self.geometry else None


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a camera's frame becomes the networks' input.

    Frames of another size or colour are first fitted by `lrdan_edge.data.images.fit_frame`, the same code in training and at
    run time; ``x = frame * scale + offset`` happens inside the deploy graph.

    Attributes:
        colour: Order of the input's channels: ``grey`` or ``bgr`` (as cameras and OpenCV deliver them).
        resize: Interpolation of `fit_frame`; ``area`` averages, so that no pixel is skipped.
        scale: Factor from uint8 to the networks' range.
        offset: Added after scaling.
        standardise: Whether each image's own mean is then taken off and its deviation divided by, so that exposure drops out.
        bit_depth: How many bits of a 16-bit image are used (many cameras put 10, 12 or 14 into 16); they are scaled to 8 by
            `lrdan_edge.data.images.to_eight_bits`. 8-bit images are taken as they are.
    """

    colour: Literal["grey", "bgr"]
    resize: Literal["area"]
    scale: float
    offset: float
    standardise: bool = False
    bit_depth: BitDepth = 16


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How AE2's reconstruction error becomes heatmap and score (inside the deploy graph).

    Attributes:
        normalise: Whether the map is normalised per pixel by the good images' mean and deviation.
        smoothing_sigma: Standard deviation of the Gaussian over the map, in pixels; 0 for none.
        pooling: ``max``, ``mean`` or ``rms`` (root of the mean square) of the map.
        source: What the map shows: AE2's reconstruction ``error``, or the ``defects`` a restorer marks (log-odds).
        deviation_floor: Least deviation that the map is divided by; an error's is in the networks' range of 2.
        extent: Whether the log of the share of the image that is marked is added everywhere; for ``defects`` alone.
        nearby: Whether the heatmap, once the score is taken, gains where much around a pixel is marked; for ``defects`` alone.
    """

    normalise: bool
    smoothing_sigma: float
    pooling: Literal["max", "mean", "rms"]
    source: Literal["error", "defects"] = "error"
    deviation_floor: float = 0.005
    extent: bool = False
    nearby: bool = False

    def __post_init__(self) -> None:
        if (self.extent or self.nearby) and self.source != "defects":
            raise ValueError("extent and nearby are for the map of defects alone: an error is no probability")

    @property
    def score_is_maximum(self) -> bool:
        """Whether the score is the heatmap's largest value, and so its threshold a pixel's too."""
        return self.pooling == "max" and not self.nearby

    @property
    def unit(self) -> float:
        """What a score is counted in: a deviation of good images, or a nat of log-odds; 0 for a raw error, which has no unit."""
        return 1.0 if self.normalise or self.source == "defects" else 0.0


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: its sha256 (hex) and its size in bytes."""

    sha256: str
    bytes: int


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one stage did.

    Attributes:
        finished: When, in UTC (ISO 8601).
        seconds: How long it took.
        command: The command that repeats it, without ``--bundle`` (bundles are copied).
        versions: Versions of Python and of the packages that made the files.
        inputs: Files of the bundle it read, with their sha256 then.
        outputs: Files of the bundle it wrote.
        options: What the user asked for.
        results: What came out: figures, choices made.
    """

    finished: str
    seconds: float
    command: str
    versions: dict[str, str]
    inputs: dict[str, str]
    outputs: list[str]
    options: dict[str, Any]
    results: dict[str, Any]


class Manifest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole manifest; see the module's and each part's description.

    Every other file's sha256 is in it, and its own in `checksum`: see `manifest_to_json`.
    """

    schema_version: int
    written_by: str
    model: ModelSpec
    preprocessing: Preprocessing
    scoring: Scoring
    files: dict[str, FileRecord]
    stages: dict[str, StageRecord]
    checksum: str = ""


class GraphDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The decision for one graph or engine, fitted on its own scores of held-out good images.

    Attributes:
        graph_sha256: The graph whose scores these are, or that the engine was built from.
        threshold: A part whose score exceeds it is rejected.
        false_reject_rate: The share of good parts rejected, in (0, 1): promised by the rule ``conformal``; by the others what
            the good images show, (rejected + 1) / (n + 1).
        n: How many held-out good images it stands on.
        good_scores: Those images' scores, ascending; a verdict's p-value is its rank among them.
        quantiles: Quantiles of the good scores by name (``p50``, ``p99``, …).
        rule: What set the threshold: good images alone (``conformal``), or labelled defects too (``best-f1``, ``recall``).
        good_images: The images' names, in the order of their scores.
        defect_scores: The labelled defects' scores, ascending; none where they had no part in the threshold.
        recall: The share of defective parts found: promised by the rule ``recall``, measured by ``best-f1``, else None.
        engine_sha256: The engine whose scores these are, or None for the graph's.
        pixel_threshold: The heatmap's value that its largest in a good image exceeds with a chance of at most the false-reject
            rate asked for, by the same rank as a conformal threshold's (the largest of n where n is too small for that); None
            where the score is the heatmap's largest value, so that `threshold` is it, or in bundles from before it was fitted.
        golden_scores: Golden-frame scores from the backend this was fitted on; empty where those in ``golden/scores.json``
            apply.
    """

    graph_sha256: str
    threshold: float
    false_reject_rate: float
    n: int
    good_scores: list[float]
    quantiles: dict[str, float]
    rule: ThresholdRule = "conformal"
    good_images: list[str] = []
    defect_scores: list[float] = []
    recall: float | None = None
    engine_sha256: str | None = None
    pixel_threshold: float | None = None
    golden_scores: list[float] = []


class Decision(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``decision.json``: one `GraphDecision` per graph, by precision."""

    schema_version: int
    graphs: dict[str, GraphDecision]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``golden/scores.json``: a few good frames (PNG files beside it) and what each graph says of them, in the images' order.

    Attributes:
        schema_version: The manifest's.
        images: File names.
        scores: Per graph.
        peaks: Their heatmaps' largest values per graph, where those are not the scores.
    """

    schema_version: int
    images: list[str]
    scores: dict[str, list[float]]
    peaks: dict[str, list[float]] = {}


class EngineLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer of an engine, as what runs it describes it.

    Attributes:
        name: Its name; a layer that fuses several graph nodes often carries all their names.
        operator: What it computes, in the words of the runtime.
        precision: The type it computes in: ``int8``, ``fp16``, ``fp32``, ``bf16``, ``other``, or ``unknown``.
        shape: Its first output's shape; -1 for the batch where that is open.
        weights: Bytes of its own weights, or None where the runtime does not tell.
    """

    name: str
    operator: str
    precision: str
    shape: list[int]
    weights: int | None = None


class EngineSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``engines/<engine>.json``: what an engine was built from and where it fits.

    Attributes:
        target: What runs it.
        target_version: That runtime's version at build time.
        precision: The graph's precision.
        graph_sha256: The graph it was built from.
        engine_sha256: The engine file.
        platform: Operating system and processor architecture, such as ``linux-x86_64``.
        device: The processor or GPU it was built for.
        device_features: What of that device the engine depends on: instruction sets, or the compute capability (``sm8.7``;
            ``sm8.0+`` for that and every later one).
        batch: Smallest, best (of its first profile) and largest batch, or None where any batch runs.
        built: When, in UTC (ISO 8601).
        options: What the builder was asked for.
        layers: The layers it really has, with the precision each really got; empty where that could not be learnt.
        golden_check: Largest relative score difference on the golden frames, or why it was not measured.
        details: What else the builder reported.
    """

    schema_version: int
    target: EngineTarget
    target_version: str
    precision: Precision
    graph_sha256: str
    engine_sha256: str
    platform: str
    device: str
    device_features: list[str]
    batch: tuple[int, int, int] | None
    built: str
    options: dict[str, Any]
    layers: list[EngineLayer]
    golden_check: float | str
    details: dict[str, Any]


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


T = TypeVar("T")


def to_json(value: object) -> bytes:
    """Serialise to indented, newline-terminated JSON (UTF-8)."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def manifest_to_json(manifest: Manifest) -> bytes:
    """Serialise a manifest, with the sha256 of these same bytes, checksum empty, as its `Manifest.checksum`."""
    bare = to_json(msgspec.structs.replace(manifest, checksum=""))
    return _with_checksum(bare, "", hashlib.sha256(bare).hexdigest())


def manifest_from_json(data: bytes, name: str) -> Manifest:
    """Parse what `manifest_to_json` wrote.

    Raises:
        BundleError: As `from_json`, or a byte was changed since.
    """
    manifest = from_json(data, Manifest, name)
    bare = _with_checksum(data, manifest.checksum, "")
    if hashlib.sha256(bare).hexdigest() != manifest.checksum:
        raise BundleError(
            f"{name} was changed after it was written: restore it from a copy, or make the bundle again with "
            "'lrdan-edge train --overwrite'"
        )
    return manifest


def _with_checksum(data: bytes, old: str, new: str) -> bytes:
    head, field, tail = data.rpartition(f'"checksum": "{old}"'.encode())
    return head + (f'"checksum": "{new}"'.encode() if field else b"") + tail


def from_json(data: bytes, kind: type[T], name: str) -> T:
    """Parse JSON strictly into `kind`.

    Args:
        data: The file's bytes.
        kind: The msgspec type expected.
        name: The file's name, for the message.

    Raises:
        BundleError: The bytes are no JSON, or not of this shape or schema version.
    """
    try:
        raw = msgspec.json.decode(data)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise BundleError(
                f"{name} has schema version {version!r}, this lrdan-edge reads version {SCHEMA_VERSION}: "
                "use the lrdan-edge release that wrote it, or make the bundle again with 'lrdan-edge train --overwrite'"
            )
        return msgspec.convert(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{name} cannot be read ({error}): restore it from a copy, or make the bundle again with 'lrdan-edge train --overwrite'"
        ) from error
