"""What calibration writes is what NVIDIA's real parser and builder take: symmetric int8, whatever the networks' shape.

What is slow here differs from the int8 graphs of `test_tensorrt_exported` in its ranges alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy import exported

from lrdan_edge.bundle.spec import Preprocessing
from lrdan_edge.calibration.quantise import QuantisableGraph, load_quantisable
from lrdan_edge.export.graph import to_onnx

torch = pytest.importorskip("torch")

CASES = [
    pytest.param((28, 28, 1), "resize", [], id="28-vector-code", marks=pytest.mark.slow),
    pytest.param((128, 128, 1), "restorer", [], id="128-grey-restorer", marks=pytest.mark.slow),
    pytest.param(
        (60, 100, 3), "restorer", ["stem.0", "up.0.0"], id="60x100-colour-restorer-two-layers-in-float", marks=pytest.mark.slow
    ),
    pytest.param((256, 256, 3), "restorer", [], id="256-colour-restorer", marks=pytest.mark.slow),
    pytest.param((512, 512, 1), "restorer", ["head"], id="512-grey-restorer-head-in-float", marks=pytest.mark.slow),
    pytest.param((64, 96, 3), "resize", [], id="64x96-colour-resize", marks=pytest.mark.slow),
    pytest.param((128, 128, 1), "transposed", [], id="128-grey-transposed", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("shape", "decoder", "in_float"), CASES)
def test_the_graph_builds(
    rtx_build: Callable[..., dict[str, Any]], tmp_path: Path, shape: tuple[int, int, int], decoder: Any, in_float: list[str]
) -> None:
    from specs import spec_for

    from lrdan_edge.model.architectures import network_for
    from lrdan_edge.model.deployed import DeployModule, ScoringHead
    from lrdan_edge.train.recipes import recipe_named

    torch.manual_seed(0)
    height, width, channels = shape
    variant: Any = {"recipe": "restoration"} if decoder == "restorer" else {"decoder": decoder}
    spec = spec_for(height, width, 1 if channels == 1 else 3, **variant)
    scoring = recipe_named(spec.recipe).scoring_for(spec)
    head = ScoringHead(spec, scoring, torch.rand(height, width), torch.rand(height, width))
    colour: Any = "grey" if channels == 1 else "bgr"
    preprocessing = Preprocessing(
        colour=colour, resize="area", scale=1 / 127.5, offset=-1.0, standardise=scoring.source == "defects"
    )
    module = DeployModule(network_for(spec), head, preprocessing, scoring.source)
    graph = QuantisableGraph(to_onnx(module, np.zeros((1, *shape), np.uint8)))
    assert_builds(rtx_build, graph, in_float, tmp_path / "model.onnx")


def test_the_graph_builds_with_two_layers_in_float(
    rtx_build: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    graph = load_quantisable(exported(tmp_path_factory, (60, 100, 3), "restorer", "fp32", "tiles"))
    assert_builds(rtx_build, graph, ["stem.0", "up.0.0"], tmp_path / "model.onnx")


def assert_builds(rtx_build: Callable[..., dict[str, Any]], graph: QuantisableGraph, in_float: list[str], path: Path) -> None:
    assert set(in_float) <= set(graph.layers)
    path.write_bytes(graph.quantise(dict.fromkeys(graph.tensors(), 3.0), in_float).SerializeToString())
    built = rtx_build(path, batches=[(1, 2, 4)])
    assert "message" not in built, built["message"]
    assert len(built["plan"]) > 10_000
    assert built["details"]["warnings"] == []
