"""Names of a bundle's files, and of the stages that are named after a file."""

from lrdan_edge.bundle.spec import Precision

WEIGHTS = "weights.safetensors"
OUT_OF_FOLD = "out-of-fold.json"
RECONSTRUCTION = "reconstruction.onnx"
DECISION = "decision.json"
GOLDEN = "golden"
ENGINES = "engines"
REPORTS = "reports"
BENCHMARK = "reports/benchmark.json"
SIGNATURE = "manifest.sig"
SIGNED_MANIFEST = "signed-manifest.json"
TIMING_CACHE = ".timing.cache"
CHECKPOINT = ".checkpoint.safetensors"


def is_graph(name: str) -> bool:
    """Whether the bundle's file `name` is a graph for a runtime; engines, which are trusted by their signatures, are not."""
    return name.endswith(".onnx") and not name.startswith(f"{ENGINES}/")


def graph_name(precision: Precision) -> str:
    """File name of the deploy graph at `precision`."""
    return f"model.{precision}.onnx"


def processor_graph_name(precision: Precision) -> str:
    """File name of the graph for processors at `precision`; the int8 one has unsigned activations."""
    return "model.int8.cpu.onnx" if precision == "int8" else graph_name(precision)


def engine_stage(name: str) -> str:
    """Name of the stage that built the engine file ``engines/<name>``."""
    return f"build-engine {name}"


def decide_stage(name: str) -> str:
    """Name of the stage that fitted the threshold of the engine file ``engines/<name>``."""
    return f"decide {name}"


def affects_verdicts(name: str) -> bool:
    """Whether the bundle's signature covers a file because it affects verdicts. Reports do not; engines do, but have their own."""
    return not name.startswith(f"{REPORTS}/") and not (name.startswith(f"{ENGINES}/") and not name.endswith(".decision.json"))


def engine_decision_name(name: str) -> str:
    """File name of the decision fitted on the scores of the engine file ``engines/<name>``."""
    return f"{ENGINES}/{name}.decision.json"
