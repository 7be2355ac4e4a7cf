"""`lrdan-edge calibrate`: makes the int8 graph, fits the thresholds, and says what they promise."""

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.calibration.methods import METHODS
from lrdan_edge.cli.console import progress_bar, show, show_unread
from lrdan_edge.cli.options import bundle_option, next_step, option_group

if TYPE_CHECKING:
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.decision import Decision, GraphDecision
    from lrdan_edge.calibration.device import FittedThresholds

_BARS, _WIDTH = 16, 40

_target_options = option_group(
    "target",
    click.option(
        "--false-reject-rate",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Fraction of good parts that may be rejected. [default: 0.02, or the lowest that the images can "
        "promise; with --decision-only the previous value]",
    ),
    click.option(
        "--threshold-from",
        "rule",
        type=click.Choice(["conformal", "cross-fitted", "recall", "best-f1"]),
        help="conformal: held-out good images; cross-fitted: all good images (padim, patchcore, dn2); recall, best-f1: defects too. "
        "[default: cross-fitted if training cross-fitted and without --good, else conformal; with --decision-only the previous one]",
    ),
    click.option(
        "--recall",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Fraction of defects to find, with --threshold-from recall. [default: 0.95; with --decision-only the previous value]",
    ),
)


@click.command()
@bundle_option
@_target_options
@click.option("--good", type=click.Path(path_type=Path), help="Folder of other good images to set the threshold with.")
@click.option("--defects", type=click.Path(path_type=Path), help="Folder of defective images, or one with test/<defect>.")
@click.option(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    default=METHODS,
    help="Method to find the int8 ranges. Repeatable. [default: try all, take the best]",
)
@click.option("--int8/--no-int8", default=True, show_default=True, help="Whether to make the int8 graph.")
@click.option(
    "--decision-only", is_flag=True, help="Only set the thresholds of graphs and engines. Needs neither onnx nor torch."
)
@click.option("--show", "show_only", is_flag=True, help="Only explain the current thresholds.")
def calibrate(
    bundle_path: Path,
    target: dict[str, Any],
    good: Path | None,
    defects: Path | None,
    methods: Any,
    int8: bool,
    decision_only: bool,
    show_only: bool,
) -> None:
    """Make the int8 graph, and set the threshold of each graph from held-out good images."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.calibration.calibrate import calibrate as run_calibration
    from lrdan_edge.calibration.device import fit_thresholds, last_target

    if show_only and decision_only:
        raise click.UsageError("choose one of --show and --decision-only")
    bundle = Bundle.open(bundle_path)
    asked = {name: value for name, value in target.items() if value is not None}
    if show_only:
        _print_decision(bundle)
        return
    if decision_only:
        with progress_bar("calibrating") as progress:
            wanted = replace(last_target(bundle, good), **asked)
            fitted = fit_thresholds(bundle, wanted, good=good, defects=defects, progress=progress)
        _print_fitted(fitted)
        show_unread(good, defects)
        next_step("Decided.", "run SOURCE", bundle_path)
        return
    with progress_bar("calibrating") as progress:
        decision = run_calibration(bundle, **asked, good=good, defects=defects, methods=methods, int8=int8, progress=progress)
    _print_thresholds(decision.graphs)
    _print_recall(bundle)
    for note in bundle.manifest.stages["calibrate"].results["notes"]:
        show(f"Note: {note}")
    _print_int8(bundle)
    if weak := bundle.manifest.stages["calibrate"].results["too_weak"]:
        _say_weak(bundle, weak, decision.graphs["fp32"].false_reject_rate)
        return
    next_step("Calibrated.", f"build-engine {_best_engine(int8=int8)}", bundle_path)


def _say_weak(bundle: "Bundle", weak: str, rate: float) -> None:
    """Print that the detector finds too few defects, and what helps instead of an engine."""
    from lrdan_edge.bundle.names import OUT_OF_FOLD
    from lrdan_edge.calibration.decision import images_needed
    from lrdan_edge.data.dataset import HELD_OUT_FRACTION

    show(f"Warning: {weak}.", style="yellow")
    trained, model = bundle.manifest.stages["train"].results, bundle.manifest.model
    images, needed = len(trained["training"]) + len(trained["held_out"]), round(images_needed(rate) / HELD_OUT_FRACTION)
    more = f"more good images ({images} were given, {max(needed, 2 * images)} or more are better)"
    epochs = "" if OUT_OF_FOLD in bundle.manifest.files else f", --epochs {2 * trained['epochs']}"
    click.echo(
        "Calibrated, but the detector finds too few defects to be of use. "
        f"Next: run lrdan-edge train again with {more}{epochs}, or an --image-size larger than "
        f"{model.height}x{model.width} if defects are small"
    )


def _best_engine(*, int8: bool) -> str:
    """The best options of ``build-engine`` for this machine."""
    from lrdan_edge.backends.nvidia import MODULES
    from lrdan_edge.backends.processor import processor

    if any(map(find_spec, MODULES)):
        return "--fp16"
    return f"--{'int8' if int8 and processor().int8_is_faster else 'fp32'} --target onnxruntime"


def _print_thresholds(decided: "Mapping[Any, GraphDecision]") -> None:
    """Print a line per graph or engine, and what their promise covers."""
    from lrdan_edge.calibration.decision import promise_in_words

    for title, graph in decided.items():
        images = "held-out good images" if graph.folds is None else f"good images in {graph.folds} folds"
        show(f"{title}: threshold {graph.threshold:.6g}, {_promise(graph)}, from {graph.n} {images}")
    for sentence in dict.fromkeys(promise_in_words(graph) for graph in decided.values()):
        if sentence:
            show(f"{sentence[:1].upper()}{sentence[1:]}.")


def _print_fitted(fitted: "FittedThresholds") -> None:
    """Print the thresholds that were fitted, and the engines that were skipped."""
    _print_thresholds({**fitted.graphs, **{f"engine {name}": own for name, own in fitted.engines.items()}})
    for reason in fitted.skipped:
        show(f"skipped engine {reason}")


def _print_recall(bundle: "Bundle") -> None:
    """Print each graph's recall on the labelled defects, if calibration had any."""
    from lrdan_edge.metrics import Recall

    for precision, found in bundle.manifest.stages["calibrate"].results.get("recall", {}).items():
        show(f"{precision}: recall at its threshold {Recall(**found).in_words()}, on the labelled defects")


def _print_int8(bundle: "Bundle") -> None:
    """Print how the int8 graph was made."""
    record = bundle.manifest.stages["calibrate"].results.get("int8")
    if record is None:
        return
    kept = ", ".join(record["kept_in_float"]) or "none"
    show(
        f"int8 by {record['method']}: rank correlation with fp32 {record['rank_correlation']:.4f}, AUROC "
        f"{record['auroc']:.4f} (fp32 {record['auroc_fp32']:.4f}) on {'labelled' if record['labelled'] else 'painted'} defects; "
        f"kept in float, of {record['layers']} layers: {kept}; see {bundle.path}/reports/calibration.md"
    )


def _print_decision(bundle: "Bundle") -> None:
    """Explain the threshold of every graph and engine."""
    from lrdan_edge.bundle.command import Command
    from lrdan_edge.engines.open import engine_names

    decision: Decision = bundle.decision()
    _print_int8(bundle)
    for precision, graph in decision.graphs.items():
        _explain(f"{precision} graph", graph)
    for name in engine_names(bundle):
        own = bundle.engine_decision(name)
        if own is None:
            command = Command("calibrate", decision_only=True)
            show(f"\nengine {name}: judged by its graph's threshold; '{command}' fits its own")
        else:
            _explain(f"engine {name}", own)
    show(
        "\nA verdict's p-value is the fraction of good parts that look at least as anomalous: "
        "(1 + number of these good scores not below the part's score) / (n + 1)."
    )


def _promise(graph: "GraphDecision") -> str:
    if graph.rule == "conformal":
        return f"at most {graph.false_reject_rate:g} of good parts rejected"
    if graph.rule == "cross-fitted":
        return f"about {graph.false_reject_rate:g} of good parts rejected"
    found = (
        f"finds at least {graph.recall:g} of such defects" if graph.rule == "recall" else f"{graph.recall:g} of defects found"
    )
    return f"{found}, {graph.false_reject_rate:.3g} of good parts rejected"


def _explain(title: str, graph: "GraphDecision") -> None:
    show(f"\n{title}: a part is rejected when its score exceeds {graph.threshold:.6g}", style="bold")
    scorer = "engine" if graph.engine_sha256 else "graph"
    if graph.rule == "cross-fitted":
        _explain_cross_fitted(graph, scorer)
        _histogram(graph)
        return
    show(f"{graph.n} good images, never trained on, were scored by this {scorer}.")
    if graph.rule == "conformal":
        _explain_conformal(graph)
    elif graph.rule == "recall":
        from lrdan_edge.calibration.decision import recall_rank

        m = len(graph.defect_scores)
        rank = recall_rank(m, graph.recall or 0)
        show(
            f"The threshold lies just below score {rank} of {m} labelled defects, ascending: a new defect like them is found with "
            f"a chance of {graph.recall:g} or more. {_rejected(graph)}"
        )
    else:
        show(
            f"The threshold has the best F1 on these and {len(graph.defect_scores)} labelled defects, of which it finds "
            f"{graph.recall:.1%}. {_rejected(graph)} Nothing is promised: both figures are those of the images it was fitted on."
        )
    _histogram(graph)


def _explain_conformal(graph: "GraphDecision") -> None:
    from lrdan_edge.calibration.decision import conformal_rank, promise_in_words, rate_interval

    low, high = rate_interval(graph)
    by_part = graph.covers == "parts" and graph.groups != graph.n
    n = graph.groups if by_part and graph.groups else graph.n
    rank = 1 + graph.good_scores.index(graph.threshold) if by_part else conformal_rank(n, graph.false_reject_rate)
    image = f" ({graph.good_images[rank - 1]})" if graph.good_images else ""
    if by_part:
        show(
            f"The threshold is score {rank} of these {graph.n}, ascending{image}. Each of the {n} parts counts once, however many "
            f"images it has: the threshold is the smallest score that at least {(n + 1) * (1 - graph.false_reject_rate):.2f} of "
            f"the {n} parts do not exceed, counting fractions of a part's images. An image of a new good part exceeds it with a "
            f"chance of at most {graph.false_reject_rate:g}, as long as new parts are like these."
        )
    else:
        show(
            f"The threshold is score {rank} of these {n}, ascending{image}: (n + 1) x (1 - {graph.false_reject_rate:g}) = "
            f"{(n + 1) * (1 - graph.false_reject_rate):.2f}, rounded up. A new good part is equally likely to fall between any "
            f"two of the {n} scores, so it exceeds this one with a chance of {(n + 1 - rank) / (n + 1):.3g}, and "
            f"never more than the {graph.false_reject_rate:g} asked for, as long as new parts are like these images."
        )
    if sentence := promise_in_words(graph):
        show(f"{sentence[:1].upper()}{sentence[1:]}.")
    kind = "parts" if by_part else "images"
    show(
        f"That is the average over sets of {n} {kind}. With these {n}, the real rate lies between {low:.2%} and "
        f"{high:.2%} with a confidence of 90 %; more {kind} make this interval narrower."
    )


def _explain_cross_fitted(graph: "GraphDecision", scorer: str) -> None:
    from lrdan_edge.calibration.decision import promise_in_words

    rank = 1 + graph.good_scores.index(graph.threshold)
    image = f" ({graph.good_images[rank - 1]})" if graph.good_images else ""
    show(
        f"All {graph.n} good images set it, in {graph.folds} folds. The held-out images were scored by this {scorer}; every other fold "
        f"by a network in float32 that was fitted without it, and brought to the scale of this {scorer} by the held-out images' scores."
    )
    once = f" Each of the {graph.groups} parts counts once." if graph.covers == "parts" and graph.groups != graph.n else ""
    show(f"The threshold is score {rank} of these {graph.n}, ascending{image}.{once}")
    sentence = promise_in_words(graph)
    show(f"{sentence[:1].upper()}{sentence[1:]}.")


def _rejected(graph: "GraphDecision") -> str:
    above = sum(score > graph.threshold for score in graph.good_scores)
    return f"Of the {graph.n} good images it rejects {above}."


def _histogram(graph: "GraphDecision") -> None:
    """Print bars of good (and defective) scores, with a mark at the threshold."""
    import numpy as np

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
        show(f"{edges[index]:>12.4g} {bars} {numbers}{'  <- threshold' if here else ''}".rstrip())
    show(f"{edges[-1]:>12.4g}   █ good{'  ░ defective' if len(bad) else ''}")
