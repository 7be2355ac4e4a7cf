"""Trials replace hyperparameters by name."""

import importlib
import sys
from pathlib import Path

import pytest

from lrdan_edge.train.recipes.lrdan.hyperparameters import LossWeights, LrdanHyperparameters
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_change_replaces_one_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    changed = importlib.import_module("trials").changed
    assert changed(RestorationHyperparameters(), "most_zoom=1.3") == RestorationHyperparameters(most_zoom=1.3)
    weights = LossWeights(k=0.5)
    assert changed(LrdanHyperparameters(), "weights.k=0.5") == LrdanHyperparameters(weights=weights)
    for wrong in ("nonsense=1", "most_zoom='much'", "most_zoom", "most_zoom=much"):
        with pytest.raises(SystemExit, match=r"cannot"):
            changed(RestorationHyperparameters(), wrong)
    sys.modules.pop("trials")
