"""What the real exporter and quantiser write is what NVIDIA's real parser and builder take, whatever the shape and geometry."""

from collections.abc import Callable
from itertools import product
from typing import Any

import onnx
import pytest
from deploy import SHARED, assert_clean, exported

from lrdan_edge.export.graph import OPSET

torch = pytest.importorskip("torch")

SHAPES = ((28, 28, 1), (64, 96, 3), (128, 128, 1), (256, 256, 3), (512, 512, 1), (60, 100, 3))  # the last is padded inside
DECODERS = ("resize", "transposed", "restorer")
PRECISIONS = ("fp32", "fp16", "int8")
GEOMETRIES = ("none", "frame-size", "roi", "tiles", "native")
CASES = [
    pytest.param(
        *case, marks=() if case in SHARED else pytest.mark.slow, id=f"{'x'.join(map(str, case[0]))}-{'-'.join(case[1:])}"
    )
    for case in product(SHAPES, DECODERS, PRECISIONS, GEOMETRIES)
    if case[3] in ("none", "frame-size") or max(case[0]) <= 256  # larger tiles differ from these in nothing but time
]


def test_the_quick_graphs_cover_every_option() -> None:
    for place, choices in enumerate((SHAPES, DECODERS, PRECISIONS, GEOMETRIES)):
        assert {case[place] for case in SHARED} == {*choices}
    assert {case[1:3] for case in SHARED} == {*product(DECODERS, PRECISIONS)}
    assert {case[2:] for case in SHARED} >= {("int8", geometry) for geometry in ("none", "frame-size", "tiles", "native")}


@pytest.mark.parametrize(("shape", "decoder", "precision", "geometry"), CASES)
def test_the_graph_builds(
    rtx_build: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    decoder: str,
    precision: str,
    geometry: str,
) -> None:
    path = exported(tmp_path_factory, shape, decoder, precision, geometry)
    assert_clean(onnx.load(path), OPSET)
    built = rtx_build(path, batches=[(1, 2, 4)])
    assert "message" not in built, built["message"]
    assert len(built["plan"]) > 10_000
    assert built["details"]["warnings"] == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("recipe", "edges"), [("padim", 1), ("patchcore", 1), ("dn2", 0), ("feature-restoration", 0)])
def test_the_graph_of_a_backbone_builds(
    rtx_build: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, recipe: str, edges: int, precision: str
) -> None:
    path = exported(tmp_path_factory, (60, 100, 3), recipe, precision, "tiles")
    model = onnx.load(path)
    assert_clean(model, OPSET)
    convolved = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    padded = [node for node in model.graph.node if node.op_type == "Pad" and node.output[0] in convolved]
    assert len(padded) == edges, "only the smoothing repeats edges; other padding belongs to the convolutions"
    built = rtx_build(path, batches=[(1, 2, 4)])
    assert "message" not in built, built["message"]
    assert len(built["plan"]) > 10_000
    assert built["details"]["warnings"] == []
