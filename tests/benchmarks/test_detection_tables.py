"""The tables of the detection benchmarks: recall at 2 % false rejects comes first, and results of earlier versions still show."""

import json
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="not a checkout: the source archive carries no benchmarks")


@pytest.mark.parametrize("name", ["detection-magnetic-tile", "detection-baselines-magnetic-tile"])
def test_recall_comes_first_and_is_left_out_where_it_was_not_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import detection
    import detection_baselines

    from lrdan_edge.metrics import Recall

    module = detection_baselines if "baselines" in name else detection
    record = json.loads((RESULTS / f"{name}.json").read_bytes())
    runs = msgspec.convert(record["runs"], list[module.Run])  # type: ignore[name-defined]
    assert "recall" not in module.as_markdown("tiles", runs, "command").split("| seed", 1)[-1]
    recall = Recall(0.5, 0.4, 0.625)
    for run in runs:
        if module is detection:
            kinds = {kind: {**found, "recall_at_2_percent": 0.25} for kind, found in run.evaluation.kinds.items()}
            run.evaluation = msgspec.structs.replace(run.evaluation, recall_at_2_percent=recall, kinds=kinds)
        else:
            run.recall_at_2_percent, run.kinds_recall = recall, dict.fromkeys(run.kinds, 0.25)
    table = [line for line in module.as_markdown("tiles", runs, "command").splitlines() if line.startswith("|")]
    first = next(place for place, line in enumerate(table) if line.startswith("| recall at 2% false rejects | 0.500"))
    assert first < next(place for place, line in enumerate(table) if line.startswith("| image AUROC"))
    assert "interval" in table[first + 1]
    assert "0.400 to 0.625" in table[first + 1]
    assert any(line.startswith("| crack, recall at 2% false rejects | 0.250") for line in table)
