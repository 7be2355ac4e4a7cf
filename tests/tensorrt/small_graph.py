"""One small deploy graph, frames for it, and what ONNX Runtime makes of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from deploy_graphs import deploy_graph

GRAPH = deploy_graph("fp32", 16, 3)
Frames = npt.NDArray[np.uint8]


def frames(count: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def expected(batch: Frames) -> list[Any]:
    return list(ort.InferenceSession(GRAPH).run(["score", "heatmap"], {"frames": batch}))
