"""What the real exporter and quantiser write is what NVIDIA's real parser and builder take, whatever the shape and geometry."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
from deploy import assert_clean, deploy_module, frame_shape, graph_of, quantised

from lrdan_edge.export.graph import OPSET

torch = pytest.importorskip("torch")

SHAPES = ((28, 28, 1), (64, 96, 3), (128, 128, 1), (256, 256, 3), (512, 512, 1), (60, 100, 3))  # the last is padded inside
DECODERS = ("resize", "transposed", "restorer")
PRECISIONS = ("fp32", "fp16", "int8")
GEOMETRIES = ("none", "frame-size", "roi", "tiles", "native")
QUICK = {
    ((28, 28, 1), "transposed", "fp32", "none"),
    ((64, 96, 3), "resize", "fp16", "none"),
    ((128, 128, 1), "transposed", "fp16", "none"),
    ((60, 100, 3), "resize", "int8", "none"),
    ((60, 100, 3), "restorer", "fp16", "none"),
    ((512, 512, 1), "resize", "fp16", "none"),
    ((512, 512, 1), "restorer", "int8", "none"),
    ((28, 28, 1), "resize", "fp32", "frame-size"),
    ((128, 128, 1), "transposed", "int8", "frame-size"),
    ((64, 96, 3), "restorer", "fp16", "roi"),
    ((60, 100, 3), "restorer", "int8", "tiles"),
    ((64, 96, 3), "transposed", "fp32", "tiles"),
    ((128, 128, 1), "resize", "fp16", "native"),
    ((256, 256, 3), "restorer", "fp16", "native"),
    ((28, 28, 1), "resize", "int8", "native"),
}
CASES = [
    pytest.param(
        *case, marks=() if case in QUICK else pytest.mark.slow, id=f"{'x'.join(map(str, case[0]))}-{'-'.join(case[1:])}"
    )
    for case in product(SHAPES, DECODERS, PRECISIONS, GEOMETRIES)
    if case[3] in ("none", "frame-size") or max(case[0]) <= 256  # larger tiles differ from these in nothing but time
]


def test_every_choice_is_among_the_quick_ones() -> None:
    for place, choices in enumerate((SHAPES, DECODERS, PRECISIONS, GEOMETRIES)):
        assert {case[place] for case in QUICK} == {*choices}
    assert {case[2:] for case in QUICK if case[3] != "none"} >= {
        ("int8", geometry) for geometry in ("frame-size", "tiles", "native")
    }


@pytest.mark.parametrize(("shape", "decoder", "precision", "geometry"), CASES)
def test_it_builds(
    rtx_build: Callable[..., dict[str, Any]],
    tmp_path: Path,
    shape: tuple[int, int, int],
    decoder: str,
    precision: str,
    geometry: str,
) -> None:
    frame = frame_shape(shape, geometry)
    model = graph_of(deploy_module(shape, decoder, geometry), frame, precision)
    if precision == "int8":
        path = quantised(model, frame, tmp_path)
    else:
        path = tmp_path / "model.onnx"
        onnx.save_model(model, path)

    assert_clean(onnx.load(path), OPSET)
    built = rtx_build(path, batches=[(1, 2, 4)])
    assert "message" not in built, built["message"]
    assert len(built["plan"]) > 10_000
    assert built["details"]["warnings"] == []
