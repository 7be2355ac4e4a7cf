"""The choice: which calibration method, and which layers stay in float, by what an inspector would notice."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from lrdan_edge.calibration.fidelity import Among, Fidelity, Yardstick
from lrdan_edge.calibration.ranges import METHODS, ActivationRange, Method
from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

    from lrdan_edge.calibration.quantise import QuantisableGraph

_SENSITIVITY_IMAGES = 16  # good ones, and as many with defects painted in
_CANDIDATES = 4  # layers tried at each step, those that hurt most alone


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One int8 graph that was measured.

    Attributes:
        method: How amplitudes were found.
        kept_in_float: Names of the layers that stayed in float.
        fidelity: What came of it.
        broken: The bounds it broke, in words.
    """

    method: Method
    kept_in_float: list[str]
    fidelity: Fidelity
    broken: list[str]


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer does to the score when no other is int8: `Yardstick.added_spread`."""

    layer: str
    added_spread: float


@dataclass(frozen=True)
class Choice:
    """The int8 graph chosen, and how.

    Attributes:
        model: The graph.
        amplitudes: What int8 represents at most, per activation.
        trial: Its own trial.
        trials: All, in the order tried.
        sensitivities: Every layer's, in the network's order.
    """

    model: "onnx.ModelProto"
    amplitudes: dict[str, float]
    trial: Trial
    trials: list[Trial]
    sensitivities: list[Sensitivity]


def choose(
    graph: "QuantisableGraph",
    histograms: Mapping[str, ActivationRange],
    yardstick: Yardstick,
    false_reject_rate: float,
    *,
    methods: Collection[Method] = METHODS,
    progress: Callable[[float], None] | None = None,
) -> Choice:
    """Try the methods, take the best, and keep the fewest layers in float that bring it within the bounds.

    The best method breaks fewest bounds, and then keeps the ranks of scores best, of good images and of the same with painted
    defects. Where it breaks a bound, the layer whose return to float helps the scores most goes back, and again, until none is
    broken; last, layers that turned out not to be needed become int8 again.

    Args:
        graph: The fp32 graph.
        histograms: Its activations.
        yardstick: What measures.
        false_reject_rate: See `Fidelity.broken`.
        methods: Methods to try.
        progress: Called with the share done, 0 to 1.

    Raises:
        CalibrationError: No int8 graph stays within the bounds.
    """
    search = _Search(graph, histograms, yardstick, false_reject_rate)
    report = progress or (lambda _: None)
    for number, method in enumerate(methods):
        search.attempt(method, [])
        report(0.3 * (number + 1) / len(methods))
    method = max(search.trials, key=lambda trial: (-len(trial.broken), trial.fidelity.worst_rank_correlation)).method
    sensitivities = search.sensitivities(method, lambda share: report(0.3 + 0.5 * share))
    hurting = [one.layer for one in sorted(sensitivities, key=lambda one: -one.added_spread)]
    trial = search.repair(method, hurting)
    report(1.0)
    amplitudes = search.amplitudes(method)
    return Choice(graph.quantise(amplitudes, trial.kept_in_float), amplitudes, trial, search.trials, sensitivities)


class _Search:
    """What `choose` tries, and remembers."""

    def __init__(
        self,
        graph: "QuantisableGraph",
        histograms: Mapping[str, ActivationRange],
        yardstick: Yardstick,
        false_reject_rate: float,
    ) -> None:
        self._graph, self._histograms, self._yardstick, self._rate = graph, histograms, yardstick, false_reject_rate
        self._amplitudes: dict[Method, dict[str, float]] = {}
        self.trials: list[Trial] = []

    def amplitudes(self, method: Method) -> dict[str, float]:
        if method not in self._amplitudes:
            self._amplitudes[method] = {name: found.amplitude(method) for name, found in self._histograms.items()}
        return self._amplitudes[method]

    def attempt(self, method: Method, kept: list[str]) -> Trial:
        """Quantise and measure."""
        fidelity = self._yardstick.measure(self._graph.quantise(self.amplitudes(method), kept))
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

    def repair(self, method: Method, hurting: list[str]) -> Trial:
        """Put layers back into float until no bound is broken, then drop those not needed."""
        trial = next(one for one in reversed(self.trials) if one.method == method and not one.kept_in_float)
        waiting, added = list(hurting), list[str]()
        while trial.broken:
            if len(waiting) == 1:
                raise CalibrationError(
                    f"no int8 graph stays within the bounds ({'; '.join(trial.broken)}): train longer or with more images, "
                    "or leave int8 out with --no-int8 and use fp16"
                )
            kept = trial.kept_in_float
            among: Among = "good" if trial.fidelity.broken_among_good(self._rate) else "painted"
            helped = min(waiting[:_CANDIDATES], key=lambda layer: self._spread(method, [*kept, layer], among))
            waiting.remove(helped)
            added.append(helped)
            trial = self.attempt(method, self._in_order([*kept, helped]))
        for layer in added[:-1]:  # without the last one, a bound was broken
            without = self.attempt(method, [other for other in trial.kept_in_float if other != layer])
            trial = trial if without.broken else without
        return trial

    def _in_order(self, layers: list[str]) -> list[str]:
        return [layer for layer in self._graph.layers if layer in layers]

    def _spread(self, method: Method, kept: list[str], among: Among = "both") -> float:
        return self._yardstick.added_spread(self._graph.quantise(self.amplitudes(method), kept), _SENSITIVITY_IMAGES, among)
