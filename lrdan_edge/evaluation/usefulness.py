"""Says in words where a detector finds too few defects to be of use, from figures that calibration has anyway.

A promised false-reject rate says nothing about defects: a detector that gives every part the same score keeps it too.
"""

from collections.abc import Mapping
from typing import Any

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.metrics import Recall

LEAST_RECALL = 0.5  # of labelled defects, at the threshold
LEAST_PAINTED_RECALL = 0.2  # of painted defects, of which some are faint
LEAST_AUROC = 0.7  # 0.5 is chance


def too_weak(recall: Mapping[str, Any], int8: Mapping[str, Any] | None) -> str:
    """The sentence that a detector finds too few defects; empty if it finds enough, or if no figure says.

    Args:
        recall: Recall of each graph on the labelled defects, by precision, as calibration records it; empty without them.
        int8: The record of the int8 graph with ``labelled``, ``auroc_fp32`` and ``painted_recall``, or None if none was made.
    """
    labelled = Recall(**recall["fp32"]) if "fp32" in recall else None
    painted = Recall(**int8["painted_recall"]) if int8 and "painted_recall" in int8 and not int8["labelled"] else None
    area = int8["auroc_fp32"] if int8 else None
    found = labelled or painted
    least = LEAST_RECALL if labelled else LEAST_PAINTED_RECALL
    poor = found is not None and found.value < least
    if not poor and (area is None or not area < LEAST_AUROC):
        return ""
    kind = "labelled" if labelled or (int8 and int8["labelled"]) else "painted"
    said = [] if found is None else [f"it finds {found.value:.1%} of the {kind} defects at its threshold"]
    said += [] if area is None else [f"its AUROC on {kind} defects is {area:.2f}, where 0.5 is chance"]
    return f"this detector is too weak to use, whatever its false-reject rate: {', and '.join(said)}"


def recorded_weakness(bundle: Bundle) -> str:
    """The sentence that calibration recorded of a detector that finds too few defects; empty for others, and for earlier versions."""
    record = bundle.manifest.stages.get("calibrate")
    return str(record.results.get("too_weak", "")) if record else ""
