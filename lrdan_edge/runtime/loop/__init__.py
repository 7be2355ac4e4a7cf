"""The inspection loop: many sources, one engine, many sinks; see `lrdan_edge.runtime.loop.inspection`."""

from lrdan_edge.runtime.loop.frame_queue import Policy
from lrdan_edge.runtime.loop.inspection import InspectionLoop
from lrdan_edge.runtime.loop.progress import Progress, SourceProgress

__all__ = ["InspectionLoop", "Policy", "Progress", "SourceProgress"]
