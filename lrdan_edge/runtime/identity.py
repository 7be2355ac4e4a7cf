"""What a run is: its name, and what judged its frames."""

import secrets
import time
from collections.abc import Sequence

from lrdan_edge import __version__
from lrdan_edge.bundle.names import ENGINES, graph_name, processor_graph_name
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.sources.base import Source

_SHORT = 16


def new_run() -> str:
    """A name that no other run has, not even after the clock was set back: the time in UTC, and 32 random bits."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


def describe_run(run: str, inspector: Inspector) -> dict[str, object]:
    """The run's name, and the bundle, graph, engine and backend that judge, ready for JSON; sha256 as 16 hexadecimal digits.

    Args:
        run: The run's name.
        inspector: Judges its frames.
    """
    bundle, choice = inspector.bundle, inspector.choice
    files, spec = bundle.manifest.files, inspector.backend.spec
    graph = files.get(graph_name(choice.precision))
    if not spec.on_gpu:
        graph = files.get(processor_graph_name(choice.precision), graph)
    engine = files.get(f"{ENGINES}/{choice.engine}")
    built = None
    if choice.engine is not None:
        built = {"name": choice.engine, "sha256": None if engine is None else engine.sha256[:_SHORT]}
    return {
        "run": run,
        "version": __version__,
        "bundle": {"path": str(bundle.path), "sha256": bundle.sha256[:_SHORT]},
        "graph": {"precision": choice.precision, "sha256": None if graph is None else graph.sha256[:_SHORT]},
        "engine": built,
        "backend": choice.backend,
        "device": spec.device,
        "threshold": inspector.thresholder.threshold,
    }


def unverified(sources: Sequence[Source]) -> dict[str, object]:
    """The sources whose servers' certificates were not checked, as ``unverified_sources``; empty if there are none."""
    found = [source.uri for source in sources if source.unverified]
    return {"unverified_sources": found} if found else {}
