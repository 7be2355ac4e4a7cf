"""What `calibrate` shows on a terminal: thresholds, and the decision explained in plain words."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.cli.show import console

if TYPE_CHECKING:
    from lrdan_edge.bundle.decision import Decision, GraphDecision
    from lrdan_edge.calibration.device import DecidedHere

_BARS, _WIDTH = 16, 40
_CALIBRATE = "lrdan-edge calibrate"


def print_thresholds(decided: "Mapping[Any, GraphDecision]") -> None:
    """A line per graph or engine."""
    for title, graph in decided.items():
        console.print(f"{title}: threshold {graph.threshold:.6g}, {_promise(graph)}, from {graph.n} held-out good images")


def print_decided(decided: "DecidedHere") -> None:
    """The thresholds fitted here, and the engines that have none of their own."""
    print_thresholds(decided.graphs)
    print_thresholds({f"engine {name}": own for name, own in decided.engines.items()})
    for reason in decided.passed_over:
        console.print(f"passed over: engine {reason}")


def print_int8(bundle: Bundle) -> None:
    """How int8 was made."""
    facts = bundle.manifest.stages["calibrate"].results.get("int8")
    if facts is None:
        return
    kept = ", ".join(facts["kept_in_float"]) or "none"
    console.print(
        f"int8 by {facts['method']}: rank correlation with fp32 {facts['rank_correlation']:.4f}, AUROC "
        f"{facts['auroc']:.4f} (fp32 {facts['auroc_fp32']:.4f}) on {'labelled' if facts['labelled'] else 'painted'} defects, "
        f"of {facts['layers']} layers in float: {kept}; see {bundle.path}/reports/calibration.md"
    )


def print_decision(bundle: Bundle) -> None:
    """The decision in plain words: every graph's and every engine's own.

    Raises:
        MissingStageError: The bundle is not calibrated.
        StaleStageError: Its graphs are newer than the decision.
    """
    from lrdan_edge.engines.open import engine_names

    decision: Decision = bundle.decision()
    print_int8(bundle)
    for precision, graph in decision.graphs.items():
        _explain(f"{precision} graph", graph)
    for name in engine_names(bundle):
        own = bundle.engine_decision(name)
        if own is None:
            console.print(f"\nengine {name}: judged by its graph's threshold; '{_CALIBRATE} --decision-only' fits its own")
        else:
            _explain(f"engine {name}", own)
    console.print(
        "\nA verdict's p-value is the share of good parts that look at least as anomalous: "
        "(1 + number of these good scores not below the part's score) / (n + 1)."
    )


def _promise(graph: "GraphDecision") -> str:
    if graph.rule == "conformal":
        return f"at most {graph.false_reject_rate:g} of good parts rejected"
    found = (
        f"finds at least {graph.recall:g} of such defects" if graph.rule == "recall" else f"{graph.recall:g} of defects found"
    )
    return f"{found}, {graph.false_reject_rate:.3g} of good parts rejected"


def _explain(title: str, graph: "GraphDecision") -> None:
    console.print(f"\n{title}: a part is rejected when its score exceeds {graph.threshold:.6g}", style="bold")
    console.print(
        f"{graph.n} good images, never trained on, were scored by this very {'engine' if graph.engine_sha256 else 'graph'}."
    )
    if graph.rule == "conformal":
        _explain_conformal(graph)
    elif graph.rule == "recall":
        m = len(graph.defect_scores)
        rank = math.floor(round((m + 1) * (1 - (graph.recall or 0)), 9))
        console.print(
            f"The threshold lies just below score {rank} of {m} labelled defects, ascending: a new defect like them is found with "
            f"a chance of {graph.recall:g} or more. {_rejected(graph)}"
        )
    else:
        console.print(
            f"The threshold has the best F1 on these and {len(graph.defect_scores)} labelled defects, of which it finds "
            f"{graph.recall:.1%}. {_rejected(graph)} Nothing is promised: both figures are those of the images it was fitted on."
        )
    _histogram(graph)


def _explain_conformal(graph: "GraphDecision") -> None:
    from lrdan_edge.calibration.decision import conformal_rank, likely_rates

    rank = conformal_rank(graph.n, graph.false_reject_rate)
    image = f" ({graph.good_images[rank - 1]})" if graph.good_images else ""
    low, high = likely_rates(graph)
    console.print(
        f"The threshold is score {rank} of these {graph.n}, ascending{image}: (n + 1) x (1 - {graph.false_reject_rate:g}) = "
        f"{(graph.n + 1) * (1 - graph.false_reject_rate):.2f}, rounded up. A new good part is equally likely to fall between any "
        f"two of the {graph.n} scores, so it exceeds this one with a chance of {(graph.n + 1 - rank) / (graph.n + 1):.3g}, and "
        f"never more than the {graph.false_reject_rate:g} asked for, as long as new parts are like these images."
    )
    console.print(
        f"That is the average over sets of {graph.n} images. With these {graph.n}, the real rate lies between {low:.2%} and "
        f"{high:.2%} with a confidence of 90 %; more images narrow it."
    )


def _rejected(graph: "GraphDecision") -> str:
    above = sum(score > graph.threshold for score in graph.good_scores)
    return f"Of the {graph.n} good images it rejects {above}."


def _histogram(graph: "GraphDecision") -> None:
    """Bars of good (and defective) scores, a line where the threshold lies."""
    good, bad = np.array(graph.good_scores), np.array(graph.defect_scores)
    everything = np.concatenate([good, bad, [graph.threshold]])
    edges = np.linspace(everything.min(), everything.max() or 1.0, _BARS + 1)
    if edges[0] == edges[-1]:
        return
    counts = [np.histogram(scores, edges)[0] for scores in (good, bad)]
    most = max(int(count.max(initial=0)) for count in counts)
    for index in range(_BARS):
        bars = "".join(
            mark * math.ceil(_WIDTH * count[index] / most) for mark, count in zip("█░", counts, strict=True) if count[index]
        )
        numbers = "+".join(str(count[index]) for count in counts if count[index])
        here = edges[index] <= graph.threshold < edges[index + 1] or (index == _BARS - 1 and graph.threshold == edges[-1])
        console.print(f"{edges[index]:>12.4g} {bars} {numbers}{'  <- threshold' if here else ''}".rstrip())
    console.print(f"{edges[-1]:>12.4g}   █ good{'  ░ defective' if len(bad) else ''}")
