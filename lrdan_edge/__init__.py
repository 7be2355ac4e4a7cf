"""LRDAN anomaly detectors, from good images to verdicts on the edge.

from lrdan_edge import Inspector

with Inspector.open("bundle") as inspector:
    for verdict in inspector.inspect(frames):
        print(verdict.outcome, verdict.score)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.errors import LrdanError
    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.loop import InspectionLoop
    from lrdan_edge.runtime.rule import Region, Rule
    from lrdan_edge.runtime.sources import open_source
    from lrdan_edge.runtime.verdict import Verdict, Verdicts

__version__ = "0.2.0"
__all__ = [
    "Bundle",
    "InspectionLoop",
    "Inspector",
    "LrdanError",
    "Region",
    "Rule",
    "Verdict",
    "Verdicts",
    "__version__",
    "open_source",
]

_HOMES = {
    "Bundle": "lrdan_edge.bundle.bundle",
    "InspectionLoop": "lrdan_edge.runtime.loop",
    "Inspector": "lrdan_edge.runtime.inspector",
    "LrdanError": "lrdan_edge.errors",
    "Region": "lrdan_edge.runtime.rule",
    "Rule": "lrdan_edge.runtime.rule",
    "Verdict": "lrdan_edge.runtime.verdict",
    "Verdicts": "lrdan_edge.runtime.verdict",
    "open_source": "lrdan_edge.runtime.sources",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import lrdan_edge`` stays light (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
