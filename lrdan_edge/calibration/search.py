"""Search for the int8 graph: select the calibration method and the layers to keep in float."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from lrdan_edge.calibration.fidelity import Fidelity, QuantizationEvaluator
from lrdan_edge.calibration.methods import METHODS, Method
from lrdan_edge.calibration.ranges import ActivationRange
from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

    from lrdan_edge.calibration.quantise import QuantisableGraph

_SENSITIVITY_IMAGES = 16  # number of good images, and of images with painted defects; fewer if they are large


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
    defects. While a bound is broken, the most sensitive layers are put back to float, twice as many each time; then as few of them as
    possible, by bisection. This is done with a few images (`QuantizationEvaluator.quick`). The graph that is found is measured on all
    images, and while it breaks a bound there, more layers are put back. A backbone's first layers are always in float
    (`QuantisableGraph.first`).

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
        search.attempt(method, 0, evaluator.quick)
        report(0.3 * (number + 1) / len(methods))
    method = max(search.trials, key=lambda trial: (-len(trial.broken), trial.fidelity.worst_rank_correlation)).method
    sensitivities = search.sensitivities(method, lambda fraction: report(0.3 + 0.4 * fraction))
    trial = search.repair(method, lambda fraction: report(0.7 + 0.3 * fraction))
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
        self._order = [layer for layer in graph.layers if layer not in graph.first]
        self._known: dict[tuple[Method, int, int], Trial] = {}
        self.trials: list[Trial] = []

    def graph(self, method: Method, kept: list[str]) -> "onnx.ModelProto":
        """The int8 graph by one method, with the layers `kept` in float."""
        if method not in self._amplitudes:
            self._amplitudes[method] = {name: found.amplitude(method) for name, found in self._histograms.items()}
        return self._graph.quantise(self._amplitudes[method], kept)

    def attempt(self, method: Method, count: int, most: int) -> Trial:
        """Quantise with the first layers and the `count` most sensitive others in float, and measure on at most `most` images."""
        images = self._evaluator.images
        key = (method, count, min(most, images))
        if key not in self._known:
            float_ = {*self._graph.first, *self._order[:count]}
            kept = [layer for layer in self._graph.layers if layer in float_]
            fidelity = self._evaluator.measure(self.graph(method, kept), most if most < images else None)
            self._known[key] = Trial(method=method, kept_in_float=kept, fidelity=fidelity, broken=fidelity.broken(self._rate))
            self.trials.append(self._known[key])
        return self._known[key]

    def sensitivities(self, method: Method, progress: Callable[[float], None]) -> list[Sensitivity]:
        """Measure every layer alone in int8, and order the layers for `attempt`."""
        images = min(_SENSITIVITY_IMAGES, self._evaluator.quick // 4)
        found = []
        for number, layer in enumerate(self._graph.layers, start=1):
            model = self.graph(method, [other for other in self._graph.layers if other != layer])
            found.append(Sensitivity(layer=layer, added_spread=self._evaluator.added_spread(model, images)))
            progress(number / len(self._graph.layers))
        spread = {one.layer: one.added_spread for one in found}
        self._order.sort(key=lambda layer: -spread[layer])
        return found

    def repair(self, method: Method, progress: Callable[[float], None]) -> Trial:
        """Put layers back to float until no bound is broken, first on a few images, then on all."""
        quick, largest = self._evaluator.quick, len(self._order) - 1  # one layer at least is int8
        below, count = -1, 0  # the largest number of layers in float that breaks a bound, and one that may not
        while self.attempt(method, count, quick).broken and count < largest:
            below, count = count, min(largest, max(1, 2 * count))
            progress(0.4 * count / largest)
        while count - below > 1:
            middle = (below + count) // 2
            below, count = (middle, count) if self.attempt(method, middle, quick).broken else (below, middle)
        progress(0.5)
        while (trial := self.attempt(method, count, self._evaluator.images)).broken:
            if count >= largest:
                raise CalibrationError(
                    f"no int8 graph stays within the bounds ({'; '.join(trial.broken)})",
                    "train longer or with more images, or leave int8 out with {int8:off} and use fp16",
                )
            count = min(largest, count + max(1, count // 4))
            progress(0.5 + 0.5 * count / largest)
        return trial
