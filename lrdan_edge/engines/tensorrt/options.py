"""Options of TensorRT's builder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lrdan_edge.errors import EngineError

Hardware = Literal["ampere-plus", "same-compute-capability"]
HARDWARE: tuple[Hardware, ...] = get_args(Hardware)


@dataclass(frozen=True)
class BuildOptions:
    """TensorRT's build options.

    Attributes:
        batches: Optimisation profiles, each the smallest, best and largest number of frames in one call. TensorRT chooses
            kernels for the best; the profile that pads a batch least runs it.
        workspace_mib: Most scratch memory for a kernel, in MiB; None: half of the GPU's free memory.
        optimization_level: 0 (builds fastest) to 5 (runs fastest); None: TensorRT's default.
        version_compatible: Whether later TensorRT versions may run the engine too; this adds a small runtime to the file.
        hardware_compatible: Which other GPUs may run it: all from Ampere on, or all of the same compute capability; None: only
            this model. Engines of TensorRT for RTX always run on every RTX GPU from Ampere on.
        refit: Whether the weights can be replaced later by those of a graph with the same layers.
        strip_weights: Whether to leave the weights out of the file; loading puts them back from the bundle's graph.
        dla_core: The DLA core that runs the layers it supports; None: the GPU runs all layers.
        timing_cache: File that keeps kernel timings between builds; made if missing. TensorRT for RTX does not use it.
        verbose: Whether the log gets all of TensorRT's messages.
        log_path: The file for TensorRT's log; None: no log.

    Raises:
        EngineError: A value is out of range, or two cannot be combined.
    """

    batches: tuple[tuple[int, int, int], ...] = ((1, 1, 8),)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: Hardware | None = None
    refit: bool = False
    strip_weights: bool = False
    dla_core: int | None = None
    timing_cache: Path | None = None
    verbose: bool = False
    log_path: Path | None = None

    def __post_init__(self) -> None:
        if not self.batches:
            raise EngineError("an engine needs at least one batch profile, got none", "give one, as {batches:1:1:8}")
        for smallest, best, largest in self.batches:
            if not 1 <= smallest <= best <= largest:
                raise EngineError(
                    f"a batch profile must be MIN:OPT:MAX with 1 ≤ MIN ≤ OPT ≤ MAX, got {smallest}:{best}:{largest}"
                )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise EngineError(f"the workspace must be 1 MiB or more, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineError(f"the optimisation level must be from 0 to 5, got {self.optimization_level}")
        if self.hardware_compatible not in (None, *HARDWARE):
            raise EngineError(f"hardware compatibility must be {' or '.join(HARDWARE)}, got {self.hardware_compatible!r}")
        if self.dla_core is not None and self.dla_core < 0:
            raise EngineError(f"a DLA core must be 0 or more, got {self.dla_core}")
        if self.dla_core is not None and (self.smallest != self.largest or len(self.batches) > 1):
            asked = " ".join(":".join(map(str, profile)) for profile in self.batches)
            best = self.batches[0][1]
            problem = f"DLA runs only one batch size, got {asked}"
            raise EngineError(problem, "give one size, as {batches:{best}}", best=best)

    @property
    def smallest(self) -> int:
        """The smallest batch of any profile."""
        return min(smallest for smallest, _, _ in self.batches)

    @property
    def largest(self) -> int:
        """The largest batch of any profile."""
        return max(largest for _, _, largest in self.batches)

    def record(self) -> dict[str, Any]:
        """The options for the sidecar, without those of files and logs: plain values, ready for JSON."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("timing_cache", "verbose", "log_path")}
        return kept | {"batches": [list(profile) for profile in self.batches]}

    def command_options(self) -> dict[str, Any]:
        """The options as options of the command ``build-engine``, in its order."""
        return {
            "batch": [":".join(map(str, profile)) for profile in self.batches],
            "workspace": self.workspace_mib,
            "optimization_level": self.optimization_level,
            "hardware_compatible": self.hardware_compatible,
            "dla": self.dla_core,
            "version_compatible": self.version_compatible,
            "refit": self.refit,
            "strip_weights": self.strip_weights,
        }
