"""What the deploy graph's ends cost and keep: scaling inside the graph, and float32 layers in the fp16 graph.

    python benchmarks/graph.py [BUNDLE]

Without a bundle, the first table alone. ONNX Runtime on one thread runs every graph.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.export.reference import reference_images, torch_outputs
from lrdan_edge.metrics import relative_differences
from lrdan_edge.model.deployed import load_network
from lrdan_edge.model.folding import fold_batch_norm
from lrdan_edge.model.precision import halve
from lrdan_edge.model.tiling import AreaResize, area_matrix

SIZES = [((480, 640), (96, 128)), ((1080, 1920), (256, 256)), ((1200, 1600), (224, 320)), ((2048, 2448), (256, 256))]
CALLS = 15


def graph(source: tuple[int, int], target: tuple[int, int], kind: str) -> bytes:
    """One way to scale float32 [1, 1, H, W]."""
    constants: dict[str, Any] = {}
    if kind == "Resize, linear, antialias":
        constants = {"sizes": np.array([1, 1, *target])}
        nodes = [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1)]
    elif kind == "two full matrices":
        rows, columns = (area_matrix(*sides, shrinks=True) for sides in zip(source, target, strict=True))
        constants = {"rows": rows, "columns": np.ascontiguousarray(columns.T)}
        nodes = [helper.make_node("MatMul", ["x", "columns"], ["w"]), helper.make_node("MatMul", ["rows", "w"], ["y"])]
    else:
        blocks = AreaResize(source, target)
        rows, columns = blocks.rows.numpy(), blocks.columns.numpy()
        shapes = ([-1, len(columns)], [-1, rows.shape[1], target[1]], [-1, 1, *target])
        constants = {"rows": rows, "columns": columns} | {f"shape{index}": np.array(one) for index, one in enumerate(shapes)}
        nodes = [
            helper.make_node("Reshape", ["x", "shape0"], ["a"]),
            helper.make_node("MatMul", ["a", "columns"], ["b"]),
            helper.make_node("Reshape", ["b", "shape1"], ["c"]),
            helper.make_node("MatMul", ["rows", "c"], ["d"]),
            helper.make_node("Reshape", ["d", "shape2"], ["y"]),
        ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *size]) for name, size in (("x", source), ("y", target))
    ]
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "scale", ends[:1], ends[1:], initialisers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


def scaling() -> None:
    """Time and distance from `cv2.INTER_AREA`, which training uses, per way and size."""
    print("| frame | to | method | ms | grey-level error, largest | mean |\n|---|---|---|---|---|---|")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for source, target in SIZES:
        rng = np.random.default_rng(0)
        image = cv2.resize(rng.integers(0, 256, (source[0] // 3, source[1] // 3), np.uint8), source[::-1])
        expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        x = image[None, None].astype(np.float32)
        for kind in ("two block matrices (ours)", "two full matrices", "Resize, linear, antialias"):
            session = onnxruntime.InferenceSession(graph(source, target, kind), options, providers=["CPUExecutionProvider"])
            durations = []
            for _ in range(CALLS):
                begun = time.perf_counter()
                (y,) = session.run(None, {"x": x})
                durations.append(time.perf_counter() - begun)
            off = np.abs(y[0, 0].round() - expected)
            sizes = " | ".join(f"{rows}x{columns}" for rows, columns in (source, target))
            print(f"| {sizes} | {kind} | {1e3 * np.median(durations):.2f} | {off.max():.0f} | {off.mean():.4f} |")


def drift(bundle: Bundle) -> None:
    """How far scores move when weights, biases and activations are rounded to half precision, but for some convolutions."""
    reference = reference_images(bundle)
    unit = bundle.manifest.scoring.unit
    expected, _ = torch_outputs(load_network(bundle), reference.frames)
    print(f"\n{reference.description}\n\n| float32 convolutions | score difference, largest | mean |\n|---|---|---|")
    for first, last in ((0, False), (0, True), (1, True), (2, True), (3, True), (4, True)):
        module = load_network(bundle)
        fold_batch_norm(module.network)
        halve(module, module.network, first, last=last)
        off = relative_differences(torch_outputs(module, reference.frames)[0], expected, unit)
        words = " and ".join([f"the first {first}"] * (first > 0) + ["the last"] * last) or "none"
        print(f"| {words} | {off.max():.1e} | {off.mean():.1e} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scaling()
    if arguments.bundle:
        drift(Bundle.open(arguments.bundle))
