"""Deploy modules of every shape, untrained, and their graphs: what the exporter and TensorRT's parser are tried on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import msgspec
import numpy as np
import pytest
from made_once import made_once

from lrdan_edge.bundle.view import Geometry

if TYPE_CHECKING:
    import onnx

    from lrdan_edge.model.deployed import DeployModule

# (size and channels, decoder, precision, geometry): graphs that several tests share, since an export takes seconds. Every decoder
# has every precision; fp32 and int8 of one shape are one export.
SHARED = (
    ((28, 28, 1), "resize", "fp32", "frame-size"),
    ((28, 28, 1), "resize", "int8", "frame-size"),
    ((256, 256, 3), "resize", "fp16", "none"),
    ((64, 96, 3), "transposed", "fp32", "roi"),
    ((28, 28, 1), "transposed", "int8", "native"),
    ((128, 128, 1), "transposed", "fp16", "native"),
    ((60, 100, 3), "restorer", "fp32", "tiles"),
    ((60, 100, 3), "restorer", "int8", "tiles"),
    ((64, 96, 3), "restorer", "fp16", "roi"),
    ((512, 512, 1), "restorer", "int8", "none"),
)

BACKBONES = ("padim", "patchcore", "dn2", "feature-restoration")

# Frames scaled, a region of one, a region in evenly spread tiles that are scaled, and tiles at the frame's own resolution.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "none": {},
    "frame-size": {"frame": (3, 2)},  # times the networks' size
    "roi": {"frame": (2, 2), "region": (0.1, 0.2, 0.5, 0.6)},  # shares of the frame
    "tiles": {"frame": (3, 3), "region": (0.1, 0.0, 0.9, 0.9), "tiles": (2, 3), "canvas": (1.75, 2.5)},
    "native": {"frame": (1.8, 2.4), "region": (0, 0, 1, 1), "tiles": (2, 3), "canvas": (1.8, 2.4)},
}


def geometry_for(name: str, height: int, width: int) -> Geometry | None:
    """One of `GEOMETRIES` for networks of this size."""
    shape = GEOMETRIES[name]
    if not shape:
        return None
    rows, columns = round(shape["frame"][0] * height), round(shape["frame"][1] * width)
    share = shape.get("region", (0, 0, 1, 1))
    region = (int(share[0] * columns), int(share[1] * rows), int(share[2] * columns), int(share[3] * rows))
    factors = shape.get("canvas", (1, 1))
    canvas = (round(factors[0] * height), round(factors[1] * width))
    return Geometry(frame=(rows, columns), region=region, canvas=canvas, tiles=shape.get("tiles", (1, 1)))


def deploy_module(shape: tuple[int, int, int], decoder: Any = "resize", geometry: str = "none") -> "DeployModule":
    """An untrained deploy module: ``decoder`` is ``resize``, ``transposed``, ``restorer``, the network of the recipe ``restoration``, or
    one with a backbone: `BACKBONES`.

    The recipe ``restoration`` restores images of more than one small object only: a small ``restorer`` is its autoencoder.
    """
    import torch
    from specs import spec_for

    from lrdan_edge.model.architectures import network_for
    from lrdan_edge.model.deployed import DeployModule, ScoringHead
    from lrdan_edge.model.feature_restorer import FeatureRestorer
    from lrdan_edge.model.features import FeatureNetwork
    from lrdan_edge.model.networks import Restorer
    from lrdan_edge.model.patchcore import PatchCore, directions
    from lrdan_edge.model.pretrained import load_pretrained
    from lrdan_edge.train.recipes import recipe_named

    torch.manual_seed(0)
    height, width, channels = shape
    recipes = {"restorer": "restoration"} | {name: name for name in BACKBONES}
    variant: Any = {"recipe": recipes[decoder]} if decoder in recipes else {"decoder": decoder}
    spec = spec_for(height, width, 1 if channels == 1 else 3, **variant)
    spec = msgspec.structs.replace(spec, geometry=geometry_for(geometry, height, width))
    recipe = recipe_named(spec.recipe)
    scoring = recipe.scoring_for(spec)
    head = ScoringHead(spec, scoring, torch.rand(*spec.heatmap_shape), torch.rand(*spec.heatmap_shape))
    network = network_for(spec).eval()
    if isinstance(network, Restorer):  # which starts from marking nothing
        torch.nn.init.normal_(network.head.weight, std=0.1)
    if isinstance(network, FeatureNetwork | FeatureRestorer):
        load_pretrained("efficientnet-lite0").load_into(network.backbone)
    if isinstance(network, FeatureRestorer):
        for name, buffer in network.named_buffers(recurse=False):  # mean_0 … inverse_2
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.startswith("inverse") else -0.5))
        for layer in (*network.ae2.modules(), *network.decoder.modules()):  # all biases are zero before training
            if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
                torch.nn.init.normal_(layer.bias, std=0.1)
        for part in (network.nearest, network.known):
            part.memory.fill(directions(torch.randn(64, part.memory.rows.shape[1])))
            part.inverse.fill_(10.0)
    if isinstance(network, PatchCore):
        network.memory.fill(directions(torch.randn(64, spec.latent_channels)))
    return DeployModule(network, head, recipe.preprocessing_for(spec), scoring.source, spec)


def frame_shape(shape: tuple[int, int, int], geometry: str) -> tuple[int, int, int]:
    """(H, W, C) of the frames that such a module takes."""
    found = geometry_for(geometry, *shape[:2])
    return (*found.frame, shape[2]) if found else shape


def graph_of(module: "DeployModule", frame: tuple[int, int, int], precision: Any) -> "onnx.ModelProto":
    """The graph as `lrdan_edge.export.graph.export` makes it, fp32 or fp16."""
    from fewer_exports import keep_registry

    from lrdan_edge.export.graph import prepare, to_onnx

    keep_registry()
    prepare(module, precision)
    return to_onnx(module, np.zeros((1, *frame), np.uint8))


def exported(factory: pytest.TempPathFactory, shape: tuple[int, int, int], decoder: str, precision: str, geometry: str) -> Path:
    """The graph of `deploy_module` as a file, exported once a test run."""
    import onnx

    frame = frame_shape(shape, geometry)

    def make(folder: Path) -> None:
        if precision == "int8":
            whole = exported(factory, shape, decoder, "fp32", geometry)
            quantised(onnx.load(whole), frame, folder).rename(folder / "model.onnx")
        else:
            onnx.save_model(graph_of(deploy_module(shape, decoder, geometry), frame, precision), folder / "model.onnx")

    return made_once(factory, f"{'x'.join(map(str, shape))}-{decoder}-{precision}-{geometry}", make) / "model.onnx"


def quantised(model: "onnx.ModelProto", frame: tuple[int, int, int], folder: Path) -> Path:
    """The int8 twin of an fp32 graph, its ranges those of a few frames of noise."""
    import onnx

    from lrdan_edge.calibration.images import FrameLoader
    from lrdan_edge.calibration.quantise import load_quantisable
    from lrdan_edge.calibration.ranges import collect_ranges

    rng = np.random.default_rng(0)
    images = [folder / f"{index}.png" for index in range(2)]
    for path in images:
        assert cv2.imwrite(str(path), rng.integers(0, 256, frame, np.uint8))
    onnx.save_model(model, folder / "fp32.onnx")
    graph = load_quantisable(folder / "fp32.onnx")
    ranges = collect_ranges(graph, images, FrameLoader(frame))
    amplitudes = {tensor: histogram.amplitude("min-max") for tensor, histogram in ranges.items()}
    (folder / "int8.onnx").write_bytes(graph.quantise(amplitudes).SerializeToString())
    return folder / "int8.onnx"


# Of what TensorRT 10.3's parser takes (onnx-tensorrt, docs/operators.md at 10.1-GA), whatever a deploy graph may come to use.
_PARSED = """
Abs Add Cast Clip Concat Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Flatten
Floor Gather LeakyRelu Log MatMul Max MaxPool Min Mul Pad Pow QuantizeLinear ReduceMax
ReduceMean ReduceSum Relu Reshape Resize Round Sigmoid Slice Softmax Softplus
Split Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze
"""
PARSED = frozenset(_PARSED.split())
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where"})
NO_OPS = frozenset({"Cast", "Concat", "Expand", "Pad", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Tile"})
NEVER = frozenset({"BatchNormalization", "Constant", "Dropout", "Identity", "Shape"})
LEFT_ALONE = ("cut.", "stitch.")  # initialisers of the geometry


def assert_clean(model: "onnx.ModelProto", opset: int) -> None:
    """Valid, as TensorRT's parser needs it, and nothing in it that does nothing."""
    import onnx
    from onnx import TensorProto, shape_inference

    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", opset)}
    graph = model.graph
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {value.name: value.type.tensor_type for value in [*inferred.value_info, *inferred.input, *inferred.output]}
    types = {name: value.elem_type for name, value in values.items()} | {one.name: one.data_type for one in graph.initializer}
    shapes = {name: [dim.dim_param or dim.dim_value for dim in value.shape.dim] for name, value in values.items()}
    constants = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert constants <= used, "an initialiser that nothing reads"
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert [node.op_type for node in graph.node if "frames" in node.input] == ["Cast"], "uint8 enters a Cast, and nothing else"
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        assert node.op_type not in NEVER, node.name
        assert node.op_type in PARSED, f"look up whether TensorRT 10.3 parses {node.op_type}"
        assert not any(attribute.name == "antialias" and attribute.i for attribute in node.attribute)
        assert set(node.output) & used, f"nothing reads {node.name}"
        folded = node.op_type == "DequantizeLinear"  # of a weight: it belongs to an explicitly quantised graph
        assert folded or not constants >= {name for name in node.input if name}, f"{node.name} could be a constant"
        if node.op_type in ELEMENTWISE:
            assert len({types[name] for name in node.input}) == 1, f"{node.name} mixes types"
        if node.op_type in NO_OPS:
            before, after = node.input[0], node.output[0]
            same = shapes[before] == shapes[after] and types[before] == types[after]
            assert not same, f"{node.name} ({node.op_type}) does nothing"
            parent = makers.get(before)
            assert parent is None or parent.op_type != node.op_type or node.op_type == "Concat" or node.op_type == "Slice", (
                f"{node.name} and the {node.op_type} before it could be one"
            )
        if node.op_type == "Transpose" and before_is(makers, node, "Transpose"):
            raise AssertionError(f"{node.name} and the Transpose before it could be one")
        if any(name.startswith(LEFT_ALONE) for name in node.input):
            assert not any(before_is(makers, node, kind) for kind in ("QuantizeLinear", "DequantizeLinear"))
            assert {types[name] for name in node.input} == {TensorProto.FLOAT}, "geometry is float32"
    assert types["score"] == types["heatmap"] == TensorProto.FLOAT


def before_is(makers: "dict[str, onnx.NodeProto]", node: "onnx.NodeProto", operator: str) -> bool:
    """Whether one of a node's inputs is made by this operator."""
    return any(name in makers and makers[name].op_type == operator for name in node.input)
