"""Search for the int8 graph: select the calibration method and the layers to keep in float."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from lrdan_edge.calibration.fidelity import Fidelity, ImageKind, QuantizationEvaluator
from lrdan_edge.calibration.methods import METHODS, Method
from lrdan_edge.calibration.ranges import ActivationRange
from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

    from lrdan_edge.calibration.quantise import QuantisableGraph

_SENSITIVITY_IMAGES = 16  # number of good images, and of images with painted defects
_CANDIDATES = 4  # number of layers tried at each step, most sensitive first


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One int8 graph that was evaluated.

    Attributes:
        method: The calibration method.
        kept_in_float: Names of the layers that stayed in float.
        fidelity: Its fidelity to fp32.
        broken: Descriptions of the bounds that it breaks.
    """

    method: Method
    kept_in_float: list[str]
    fidelity: Fidelity
    broken: list[str]


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The change of the score if only this layer is int8: `QuantizationEvaluator.added_spread`."""

    layer: str
    added_spread: float


@dataclass(frozen=True)
class SearchResult:
    """The int8 graph that was found, and all trials.

    Attributes:
        model: The graph.
        trial: The trial of this graph.
        trials: All trials, in order.
        sensitivities: The sensitivity of every layer, in the network's order.
    """

    model: "onnx.ModelProto"
    trial: Trial
    trials: list[Trial]
    sensitivities: list[Sensitivity]


def search_int8(
    graph: "QuantisableGraph",
    histograms: Mapping[str, ActivationRange],
    evaluator: QuantizationEvaluator,
    false_reject_rate: float,
    *,
    methods: Collection[Method] = METHODS,
    progress: Callable[[float], None] | None = None,
) -> SearchResult:
    """Try the methods, select the best, and keep as few layers in float as possible to meet the bounds.

    The best method breaks the fewest bounds; among equals, it has the highest rank correlation, the lower of good images and painted
    defects. While a bound is broken, the layer that improves the scores most is put back to float. In the end, layers that are not
    needed in float become int8 again.

    Args:
        graph: The fp32 graph.
        histograms: The ranges of its activations.
        evaluator: Compares int8 graphs with it.
        false_reject_rate: See `Fidelity.broken`.
        methods: Methods to try.
        progress: Called with the fraction done, 0 to 1.

    Raises:
        CalibrationError: No int8 graph stays within the bounds.
    """
    search = _Search(graph, histograms, evaluator, false_reject_rate)
    report = progress or (lambda _: None)
    for number, method in enumerate(methods):
        search.attempt(method, [])
        report(0.3 * (number + 1) / len(methods))
    method = max(search.trials, key=lambda trial: (-len(trial.broken), trial.fidelity.worst_rank_correlation)).method
    sensitivities = search.sensitivities(method, lambda fraction: report(0.3 + 0.5 * fraction))
    sensitive = [one.layer for one in sorted(sensitivities, key=lambda one: -one.added_spread)]
    trial = search.repair(method, sensitive)
    report(1.0)
    return SearchResult(search.graph(method, trial.kept_in_float), trial, search.trials, sensitivities)


class _Search:
    """The trials of `search_int8`."""

    def __init__(
        self,
        graph: "QuantisableGraph",
        histograms: Mapping[str, ActivationRange],
        evaluator: QuantizationEvaluator,
        false_reject_rate: float,
    ) -> None:
        self._graph, self._histograms, self._evaluator, self._rate = graph, histograms, evaluator, false_reject_rate
        self._amplitudes: dict[Method, dict[str, float]] = {}
        self.trials: list[Trial] = []

    def graph(self, method: Method, kept: list[str]) -> "onnx.ModelProto":
        """The int8 graph by one method, with the layers `kept` in float."""
        if method not in self._amplitudes:
            self._amplitudes[method] = {name: found.amplitude(method) for name, found in self._histograms.items()}
        return self._graph.quantise(self._amplitudes[method], kept)

    def attempt(self, method: Method, kept: list[str]) -> Trial:
        """Quantise and measure."""
        fidelity = self._evaluator.measure(self.graph(method, kept))
        trial = Trial(method=method, kept_in_float=kept, fidelity=fidelity, broken=fidelity.broken(self._rate))
        self.trials.append(trial)
        return trial

    def sensitivities(self, method: Method, progress: Callable[[float], None]) -> list[Sensitivity]:
        found = []
        for number, layer in enumerate(self._graph.layers, start=1):
            others = [other for other in self._graph.layers if other != layer]
            found.append(Sensitivity(layer=layer, added_spread=self._spread(method, others)))
            progress(number / len(self._graph.layers))
        return found

    def repair(self, method: Method, sensitive: list[str]) -> Trial:
        """Put layers back to float until no bound is broken, then quantise those again that are not needed in float."""
        trial = next(one for one in reversed(self.trials) if one.method == method and not one.kept_in_float)
        waiting, added = list(sensitive), list[str]()
        while trial.broken:
            if len(waiting) == 1:
                raise CalibrationError(
                    f"no int8 graph stays within the bounds ({'; '.join(trial.broken)})",
                    "train longer or with more images, or leave int8 out with {int8:off} and use fp16",
                )
            kept = trial.kept_in_float
            kind: ImageKind = "good" if trial.fidelity.broken_among_good(self._rate) else "painted"
            helped = min(waiting[:_CANDIDATES], key=lambda layer: self._spread(method, [*kept, layer], kind))
            waiting.remove(helped)
            added.append(helped)
            trial = self.attempt(method, self._in_order([*kept, helped]))
        for layer in added[:-1]:  # the last one is needed: without it, a bound was broken
            without = self.attempt(method, [other for other in trial.kept_in_float if other != layer])
            trial = trial if without.broken else without
        return trial

    def _in_order(self, layers: list[str]) -> list[str]:
        return [layer for layer in self._graph.layers if layer in layers]

    def _spread(self, method: Method, kept: list[str], kind: ImageKind = "both") -> float:
        return self._evaluator.added_spread(self.graph(method, kept), _SENSITIVITY_IMAGES, kind)
