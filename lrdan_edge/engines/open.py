"""List and open the engines of a bundle, and say which of them may run on this machine."""

import hashlib
from dataclasses import dataclass

from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.names import ENGINES, engine_stage, graph_name, processor_graph_name
from lrdan_edge.engines.compatibility import incompatibility_of
from lrdan_edge.engines.tensorrt.refit import tensorrt_settings, with_weights
from lrdan_edge.engines.trust import Trust, accept, trust_in
from lrdan_edge.errors import ChangedFileError, EngineError, IncompatibleEngineError, MissingStageError, UntrustedEngineError


@dataclass(frozen=True)
class Engine:
    """An engine of a bundle.

    Attributes:
        name: File name below ``engines/``.
        sidecar: The record of the graph and the machine that it was built for.
        written: The bytes of the sidecar that were read and checked, for signatures.
        incompatibility: Why it does not run on this machine or is out of date, or None.
        trust: Whether it may be loaded.
        command: The command that builds it again, without the bundle's path.
        rebuild: The same command with the bundle's path.
    """

    name: str
    sidecar: EngineSidecar
    written: bytes
    incompatibility: str | None
    trust: Trust
    command: str
    rebuild: str

    @property
    def unusable_reason(self) -> str | None:
        """Why it cannot be used here, or None."""
        return self.incompatibility or (None if self.trust.trusted else self.trust.reason)

    @property
    def title(self) -> str:
        """Target and precision, as benchmarks list them: ``tensorrt int8``."""
        return f"{self.sidecar.target} {self.sidecar.precision}"


def engines(bundle: Bundle) -> list[Engine]:
    """All engines of the bundle, by name. Reads and checks only the sidecars; engine files are read when opened."""
    return [engine(bundle, name) for name in engine_names(bundle)]


def engine_names(bundle: Bundle) -> list[str]:
    """File names of all engines of the bundle."""
    prefix = engine_stage("")
    return sorted(stage.removeprefix(prefix) for stage in bundle.manifest.stages if stage.startswith(prefix))


def engine(bundle: Bundle, name: str) -> Engine:
    """One engine of the bundle, its sidecar read and checked.

    Raises:
        MissingStageError: The bundle has no such engine.
        ChangedFileError: The sidecar was changed after it was written.
        BundleError: The sidecar cannot be read.
    """
    record = bundle.manifest.stages.get(engine_stage(name))
    if record is None:
        known = ", ".join(engine_names(bundle)) or f"none: '{Command('build-engine')}' makes them"
        raise MissingStageError(f"{bundle.path} has no engine {name!r} (there are {known})")
    sidecar_name = sidecar_of(name)
    written = bundle.read(sidecar_name, record.command)
    sidecar = from_json(written, EngineSidecar, str(bundle.path / sidecar_name))
    incompatibility = _staleness(bundle, name, sidecar) or incompatibility_of(sidecar)
    rebuild = str(Command.recorded(record.command).with_options(bundle=bundle.path))
    return Engine(name, sidecar, written, incompatibility, trust_in(bundle, name, written), record.command, rebuild)


def sidecar_of(name: str) -> str:
    """The bundle's name of an engine's sidecar."""
    return f"{ENGINES}/{name}.json"


def trust_engine(bundle: Bundle, name: str, sha256: str) -> None:
    """Let this machine load an engine that another machine built.

    Args:
        bundle: The bundle.
        name: The engine's file name below ``engines/``.
        sha256: The engine's sha256 in hex, from somebody whom the user trusts.

    Raises:
        MissingStageError: The bundle has no such engine.
        ChangedFileError: The engine or the sidecar does not match the manifest.
        EngineError: The engine has another sha256, or the key cannot be used.
    """
    found = engine(bundle, name)
    actual = hashlib.sha256(engine_bytes(bundle, found)).hexdigest()
    if actual != sha256.strip().lower():
        raise EngineError(
            f"engine {name} does not have the sha256 that you gave (its sha256 is {actual})", "copy it again, or build it here"
        )
    accept(bundle, name, found.written)


def open_engine(bundle: Bundle, engine: Engine, cores: Cores = ANY_CORES) -> Backend:
    """Check the sha256 of an engine's file, then load it.

    Raises:
        IncompatibleEngineError: It does not run on this machine, or is out of date; the message has the command that rebuilds it.
        UntrustedEngineError: It may not be loaded here; the message has the command that rebuilds it.
        EngineError: The runtime cannot load the engine.
        ChangedFileError: The file was changed after the build.
    """
    if engine.unusable_reason:
        kind = IncompatibleEngineError if engine.incompatibility else UntrustedEngineError
        raise kind(
            f"engine {engine.name} cannot run here: {engine.unusable_reason}",
            "build it again with '{command}'",
            command=engine.rebuild,
        )
    data = engine_bytes(bundle, engine)
    return load_engine(data, engine.sidecar, weights_for(bundle, engine.sidecar), cores)


def engine_bytes(bundle: Bundle, engine: Engine) -> bytes:
    """The bytes of an engine's file, read once and checked against the sha256 in its signed sidecar.

    Raises:
        ChangedFileError: The file was changed after the build.
    """
    name = f"{ENGINES}/{engine.name}"
    data = bundle.read(name, engine.command)
    if bundle.manifest.files[name].sha256 != engine.sidecar.engine_sha256:
        raise ChangedFileError(
            f"{bundle.path / name} is not the engine that its sidecar describes",
            "build it again with '{command}'",
            command=engine.rebuild,
        )
    return data


def weights_for(bundle: Bundle, sidecar: EngineSidecar) -> bytes | None:
    """The checked graph that provides the weights of an engine built without weights; None for other engines."""
    if not sidecar.options.get("strip_weights"):
        return None
    return bundle.read_graph(sidecar.precision)


def load_engine(data: bytes, sidecar: EngineSidecar, weights: bytes | None, cores: Cores = ANY_CORES) -> Backend:
    """Open the backend that runs an engine. This executes code in `data`, so the caller must have checked that it is trusted.

    Args:
        data: The engine file's bytes.
        sidecar: The engine's sidecar.
        weights: The result of `weights_for`.
        cores: How the engine may use the processor.

    Raises:
        EngineError: TensorRT cannot load the engine.
        BackendError: Another runtime cannot load the engine, or it cannot run here.
    """
    if sidecar.target == "tensorrt":
        from lrdan_edge.backends.tensorrt import TensorRTBackend

        settings = tensorrt_settings(sidecar)
        plan = data if weights is None else with_weights(data, weights, **settings)
        return TensorRTBackend(plan, sidecar.precision, spin=cores.spin is True, **settings)
    if sidecar.target == "openvino":
        from lrdan_edge.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(data, sidecar.precision, compiled=True, cores=cores)
    from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(data, sidecar.precision, optimised=True, cores=cores)


def _staleness(bundle: Bundle, name: str, sidecar: EngineSidecar) -> str | None:
    graph = bundle.manifest.files.get(graph_name(sidecar.precision))
    if graph is None or graph.sha256 != sidecar.graph_sha256 or bundle.staleness(engine_stage(name)):
        return f"it is older than {graph_name(sidecar.precision)}"
    if sidecar.target == "tensorrt" or sidecar.precision != "int8":
        return None
    # built from the graph for processors, which is not the one that the sidecar names
    source = bundle.manifest.files.get(processor_graph_name("int8"), graph).sha256
    recorded = sidecar.details.get("source_sha256")
    if recorded is None and bundle.signed_by is None:  # of an earlier version, and nobody asks
        return None
    return None if recorded == source else f"it was not built from the bundle's {processor_graph_name('int8')}"
