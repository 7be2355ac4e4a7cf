from typing import Any, cast

import pytest

from lrdan_edge.calibration.fidelity import Fidelity, QuantizationEvaluator
from lrdan_edge.calibration.methods import METHODS
from lrdan_edge.calibration.quantise import QuantisableGraph
from lrdan_edge.calibration.ranges import ActivationRange
from lrdan_edge.calibration.search import search_int8
from lrdan_edge.errors import CalibrationError


class Amplitude:
    def amplitude(self, method: str) -> float:
        of_good = {"min-max": 3.0, "percentile-99.999": 2.0, "percentile-99.997": 1.5, "percentile-99.99": 1.0, "entropy": 4.0}
        return 5.0 if method.startswith("painted-") else of_good[method]


class Graph:
    """A network whose layers hurt the score by known amounts: an int8 graph of it is its amplitude and what is in float."""

    def __init__(self, hurts: dict[str, float], first: tuple[str, ...] = ()) -> None:
        self.layers = hurts
        self.first = list(first)

    def quantise(self, amplitudes: dict[str, float], keep_float: Any = ()) -> Any:
        return amplitudes["x"], frozenset(keep_float)


class Evaluator:
    """Measures it; on all images, the scores change `more` times as much as on a few."""

    quick, images = 32, 100

    def __init__(self, graph: Graph, cut_off: float = 0, more: float = 1) -> None:
        self._graph, self._cut_off, self._more = graph, cut_off, more

    def _spread(self, model: Any) -> float:
        amplitude, kept = model
        return float(amplitude) * sum(hurt for layer, hurt in self._graph.layers.items() if layer not in kept)

    def added_spread(self, model: Any, _most: int) -> float:
        return self._spread(model)

    def measure(self, model: Any, most: int | None) -> Fidelity:
        spread = self._spread(model) * (1 if most else self._more)
        return Fidelity(
            images=most or self.images,
            rank_correlation=1 - spread,
            painted_rank_correlation=1 - self._cut_off / model[0],
            added_spread=spread,
            verdicts_changed=0,
            auroc=0.9,
            auroc_fp32=0.9,
        )


def chosen(hurts: dict[str, float], cut_off: float = 0, more: float = 1, first: tuple[str, ...] = ()) -> Any:
    """What the search finds; the doubles have of the real classes what it uses."""
    graph = Graph(hurts, first)
    evaluator = cast(QuantizationEvaluator, Evaluator(graph, cut_off, more))
    return search_int8(cast(QuantisableGraph, graph), {"x": cast(ActivationRange, Amplitude())}, evaluator, 0.02)


def test_a_method_within_the_bounds_leaves_no_layer_in_float() -> None:
    result = chosen({"a": 0.01, "b": 0.005})
    assert result.trial.method == "percentile-99.99"
    assert result.trial.kept_in_float == []
    assert [one.layer for one in result.sensitivities] == ["a", "b"]


def test_a_range_that_clips_defects_is_not_chosen() -> None:
    assert chosen({"a": 0.005}, cut_off=0.01).trial.method == "percentile-99.997"


def test_the_fewest_layers_stay_in_float_and_in_the_networks_order() -> None:
    result = chosen({"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.09, "e": 0.003})
    assert result.trial.kept_in_float == ["b", "d"]
    assert not result.trial.broken
    assert result.model == (1.0, frozenset({"b", "d"}))


def test_a_backbones_first_layers_stay_in_float_without_a_trial() -> None:
    result = chosen({"stem": 0.5, "b": 0.001, "c": 0.05, "d": 0.002}, first=("stem",))
    assert result.trial.kept_in_float == ["stem", "c"]
    assert all("stem" in trial.kept_in_float for trial in result.trials)
    assert [one.layer for one in result.sensitivities] == ["stem", "b", "c", "d"]


def test_few_images_find_the_layers_and_all_images_confirm_them() -> None:
    result = chosen({"a": 0.001, "b": 0.05, "c": 0.008, "d": 0.09, "e": 0.003}, more=2)
    kept = [(trial.kept_in_float, trial.fidelity.images) for trial in result.trials[-3:]]
    assert kept == [(["b", "d"], 32), (["b", "d"], 100), (["b", "c", "d"], 100)]
    assert result.trial.kept_in_float == ["b", "c", "d"]
    assert not result.trial.broken


@pytest.mark.parametrize("needed", [0, 1, 5, 13, 40, 48])
def test_the_number_of_trials_grows_only_with_the_logarithm_of_the_layers(needed: int) -> None:
    """One layer after the other took longer than half an hour for a backbone."""
    result = chosen({f"layer{place}": 0.03 if place < needed else 0.0001 for place in range(50)})
    assert len(result.trial.kept_in_float) == needed
    assert len(result.trials) <= len(METHODS) + 14


def test_a_network_without_int8_layers_is_an_error_with_a_fix() -> None:
    with pytest.raises(CalibrationError, match=r"rank correlation .* int8=False"):
        chosen({"a": 0.5, "b": 0.6, "c": 0.7})
