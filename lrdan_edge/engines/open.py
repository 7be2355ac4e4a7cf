"""Engines of a bundle: which there are, which may run on this machine, and how they are opened."""

import hashlib
from dataclasses import dataclass

from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.files import Folder
from lrdan_edge.bundle.names import ENGINES, engine_stage, graph_name
from lrdan_edge.engines.compatibility import misfit
from lrdan_edge.engines.tensorrt.refit import with_weights
from lrdan_edge.engines.trust import is_trusted, sign
from lrdan_edge.errors import BundleError, ChangedFileError, EngineError, MissingStageError

UNTRUSTED = "this machine did not build it, and engines are executable code (lrdan-edge engine trust vouches for one)"


@dataclass(frozen=True)
class Engine:
    """An engine of a bundle.

    Attributes:
        name: File name below ``engines/``.
        sidecar: What it was built from and where it fits.
        obstacle: Why it cannot be used here, or None.
        rebuild: The command that builds it again, without ``--bundle``.
    """

    name: str
    sidecar: EngineSidecar
    obstacle: str | None
    rebuild: str

    @property
    def title(self) -> str:
        """Target and precision, for people: ``tensorrt int8``."""
        return f"{self.sidecar.target} {self.sidecar.precision}"


def engines(bundle: Bundle) -> list[Engine]:
    """All engines of the bundle, by name. Their sidecars are read and checked; the engine files only when opened."""
    return [engine(bundle, name) for name in engine_names(bundle)]


def engine_names(bundle: Bundle) -> list[str]:
    """File names of all engines of the bundle."""
    prefix = engine_stage("")
    return sorted(stage.removeprefix(prefix) for stage in bundle.manifest.stages if stage.startswith(prefix))


def engine(bundle: Bundle, name: str) -> Engine:
    """One engine of the bundle, its sidecar read and checked.

    Raises:
        MissingStageError: The bundle has no such engine.
        ChangedFileError: The sidecar is not the one that was written.
        BundleError: The sidecar cannot be read.
    """
    record = bundle.manifest.stages.get(engine_stage(name))
    if record is None:
        known = ", ".join(engine_names(bundle)) or "none: 'lrdan-edge build-engine' makes them"
        raise MissingStageError(f"{bundle.path} has no engine {name!r} (there are {known})")
    sidecar_name = sidecar_of(name)
    written = bundle.read(sidecar_name, record.command)
    sidecar = from_json(written, EngineSidecar, str(bundle.path / sidecar_name))
    obstacle = _stale(bundle, name, sidecar) or misfit(sidecar) or distrust(bundle, name, written)
    return Engine(name, sidecar, obstacle, record.command)


def sidecar_of(name: str) -> str:
    """The bundle's name of an engine's sidecar."""
    return f"{ENGINES}/{name}.json"


def signature_of(name: str) -> str:
    """The bundle's name of an engine's signature. It is no file of the manifest: it answers for itself."""
    return f"{ENGINES}/{name}.sig"


def distrust(bundle: Bundle, name: str, sidecar: bytes) -> str | None:
    """Why the engine that this sidecar describes may not be loaded, or None when its signature is trusted."""
    try:
        with Folder(bundle.path) as folder:
            signature = folder.read(signature_of(name)).decode("ascii")
        return None if is_trusted(sidecar, signature.removesuffix("\n")) and signature.endswith("\n") else UNTRUSTED
    except (OSError, UnicodeDecodeError):
        return UNTRUSTED
    except EngineError as error:
        return str(error)


def trust_engine(bundle: Bundle, name: str, sha256: str) -> None:
    """Sign an engine that another machine built with this machine's key.

    Args:
        bundle: The bundle.
        name: The engine's file name below ``engines/``.
        sha256: The engine's sha256 in hex, learnt from whom the user trusts.

    Raises:
        MissingStageError: The bundle has no such engine.
        ChangedFileError: Engine or sidecar are not what the manifest says.
        EngineError: It is another engine than the one vouched for, or the key cannot be used.
    """
    found = engine(bundle, name)
    actual = hashlib.sha256(engine_bytes(bundle, found)).hexdigest()
    if actual != sha256.strip().lower():
        raise EngineError(f"engine {name} is not the one you vouch for (its sha256 is {actual}): get it anew, or build it here")
    write_signature(bundle, name, sign(bundle.read(sidecar_of(name), found.rebuild)))


def write_signature(bundle: Bundle, name: str, signature: str) -> None:
    """Put an engine's signature beside it, whole or not at all.

    Raises:
        BundleError: The bundle cannot be written.
    """
    try:
        with Folder(bundle.path) as folder:
            folder.write(signature_of(name), signature_file(signature), shared=True)
    except OSError as error:
        path = bundle.path / signature_of(name)
        raise BundleError(f"{path} cannot be written ({error.strerror}): check the bundle's permissions") from error


def signature_file(signature: str) -> bytes:
    """What a signature's file holds."""
    return f"{signature}\n".encode("ascii")


def open_engine(bundle: Bundle, engine: Engine, cores: Cores = ANY_CORES) -> Backend:
    """Load an engine, its file's sha256 checked first.

    Raises:
        EngineError: It may not run on this machine; the message ends with the command that rebuilds it.
        ChangedFileError: The file is not the one that was built.
    """
    if engine.obstacle:
        raise EngineError(
            f"engine {engine.name} cannot run here: {engine.obstacle}; "
            f"build it anew with '{engine.rebuild} --bundle {bundle.path}'"
        )
    data = engine_bytes(bundle, engine)
    return load_engine(data, engine.sidecar, weights_for(bundle, engine.sidecar), cores)


def engine_bytes(bundle: Bundle, engine: Engine) -> bytes:
    """The engine file, read once and held to the sha256 in its sidecar, which is what was signed.

    Raises:
        ChangedFileError: The file is not the one that was built.
    """
    name = f"{ENGINES}/{engine.name}"
    data = bundle.read(name, engine.rebuild)
    if bundle.manifest.files[name].sha256 != engine.sidecar.engine_sha256:
        raise ChangedFileError(
            f"{bundle.path / name} is not the engine that its sidecar describes: "
            f"build it anew with '{engine.rebuild} --bundle {bundle.path}'"
        )
    return data


def weights_for(bundle: Bundle, sidecar: EngineSidecar) -> bytes | None:
    """The graph that an engine built without weights takes them from, checked; None for one that has its own."""
    if not sidecar.options.get("strip_weights"):
        return None
    return bundle.graph(sidecar.precision).read_bytes()


def load_engine(data: bytes, sidecar: EngineSidecar, weights: bytes | None, cores: Cores = ANY_CORES) -> Backend:
    """The backend that runs an engine's bytes. They are executed: whoever calls has checked where they come from.

    Args:
        data: The engine file's bytes.
        sidecar: Its sidecar.
        weights: As `weights_for` gives them.
        cores: How it may use the processor, where that runs it.

    Raises:
        EngineError: What runs the engine refuses it.
        BackendError: The same, or it cannot run here.
    """
    if sidecar.target == "tensorrt":
        from lrdan_edge.backends.tensorrt import TensorRTBackend

        core, portable = sidecar.options.get("dla_core"), bool(sidecar.options.get("version_compatible"))
        plan = data if weights is None else refitted(data, sidecar, weights)
        return TensorRTBackend(plan, sidecar.precision, dla_core=core, version_compatible=portable, spin=cores.spin is True)
    if sidecar.target == "openvino":
        from lrdan_edge.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(data, sidecar.precision, compiled=True, cores=cores)
    from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(data, sidecar.precision, optimised=True, cores=cores)


def refitted(data: bytes, sidecar: EngineSidecar, weights: bytes) -> bytes:
    """A TensorRT engine's bytes with the weights of a graph's bytes in them; executed, as `load_engine` does.

    Raises:
        EngineError: The weights do not fit.
        MissingExtraError: TensorRT is not installed.
    """
    core, portable = sidecar.options.get("dla_core"), bool(sidecar.options.get("version_compatible"))
    return with_weights(data, weights, dla_core=core, host_code=portable)


def _stale(bundle: Bundle, name: str, sidecar: EngineSidecar) -> str | None:
    graph = bundle.manifest.files.get(graph_name(sidecar.precision))
    if graph is None or graph.sha256 != sidecar.graph_sha256 or bundle.staleness(engine_stage(name)):
        return f"it is older than {graph_name(sidecar.precision)}"
    return None
