"""What the real exporter writes is what NVIDIA's real parser and builder take, whatever the networks' shape."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrdan_edge.export.graph import to_onnx
from lrdan_edge.manifest import Preprocessing

torch = pytest.importorskip("torch")

SHAPES = ((28, 28, 1), (64, 96, 3), (128, 128, 1), (256, 256, 3), (512, 512, 1), (60, 100, 3))  # the last is padded inside
DECODERS = ("resize", "transposed", "restorer")
PRECISIONS = ("fp32", "fp16")
QUICK = {
    ((28, 28, 1), "transposed", "fp32"),
    ((64, 96, 3), "resize", "fp16"),
    ((128, 128, 1), "transposed", "fp16"),
    ((60, 100, 3), "resize", "fp32"),
    ((60, 100, 3), "restorer", "fp16"),
    ((128, 128, 1), "restorer", "fp32"),
    ((256, 256, 3), "restorer", "fp16"),
    ((512, 512, 1), "resize", "fp16"),
}
CASES = [
    pytest.param(
        *case, marks=() if case in QUICK else pytest.mark.slow, id=f"{'x'.join(map(str, case[0]))}-{case[1]}-{case[2]}"
    )
    for case in product(SHAPES, DECODERS, PRECISIONS)
]


@pytest.mark.parametrize(("shape", "decoder", "precision"), CASES)
def test_it_builds(
    rtx_build: Callable[..., dict[str, Any]], tmp_path: Path, shape: tuple[int, int, int], decoder: Any, precision: str
) -> None:
    from lrdan_edge.train.networks import ae2_for, spec_for
    from lrdan_edge.train.options import scoring_for
    from lrdan_edge.train.scoring import DeployModule, ScoringHead

    torch.manual_seed(0)
    height, width, channels = shape
    variant: Any = {"recipe": "inspection"} if decoder == "restorer" else {"decoder": decoder}
    spec = spec_for(height, width, channels, **variant)  # type: ignore[arg-type]
    scoring = scoring_for(spec)
    head = ScoringHead(spec, scoring, torch.rand(height, width), torch.rand(height, width))
    colour: Any = "grey" if channels == 1 else "bgr"
    preprocessing = Preprocessing(
        colour=colour, resize="area", scale=1 / 127.5, offset=-1.0, standardise=scoring.source == "defects"
    )
    module = DeployModule(ae2_for(spec), head, preprocessing, scoring.source)
    if precision == "fp16":
        module.half()
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(module, np.zeros((1, *shape), np.uint8)).SerializeToString())

    built = rtx_build(path, batch=(1, 2, 4))
    assert "message" not in built, built["message"]
    assert len(built["plan"]) > 10_000
    assert built["details"]["warnings"] == []
