"""Frames of a camera through the whole line: a region in tiles, from training to the picture with its verdict."""

import base64
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner
from made_once import made_once
from parts import write

from lrdan_edge import Inspector
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.view import Geometry
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import read_image
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import DataError
from lrdan_edge.evaluation.evaluate import evaluate
from lrdan_edge.export.parity import ParityReport
from lrdan_edge.runtime.annotate import overlay
from lrdan_edge.runtime.explain import explain

torch = pytest.importorskip("torch")
from lrdan_edge.model.deployed import load_network, preprocess  # noqa: E402
from lrdan_edge.model.tiling import Untile  # noqa: E402

ROWS, COLUMNS = 90, 140
REGION = (20, 10, 100, 70)  # outside it nothing is inspected
VIEW = "--roi 20,10,100,70 --tiles 2x3 --tile-overlap 8"


def camera_frame(rng: np.random.Generator, defect: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Stripes that the part has and clutter around it; a bright dot at (x, y)."""
    x = np.arange(COLUMNS) + rng.integers(0, 8)
    frame = np.clip(110 + 40 * np.sin(2 * np.pi * x / 8)[None] + rng.normal(0, 4, (ROWS, COLUMNS)), 0, 255)
    left, top, width, height = REGION
    clutter = rng.integers(0, 256, (ROWS, COLUMNS)).astype(np.float64)
    clutter[top : top + height, left : left + width] = frame[top : top + height, left : left + width]
    image = clutter.astype(np.uint8)
    if defect:
        cv2.circle(image, defect, 6, 250, -1)
    return image


def write_frames(folder: Path) -> None:
    rng = np.random.default_rng(3)
    for index in range(24):
        write(folder / "train/good" / f"{index}.png", camera_frame(rng))
    for index in range(55):
        write(folder / "calibration/good" / f"{index}.png", camera_frame(rng))
    for index in range(6):
        write(folder / "test/good" / f"{index}.png", camera_frame(rng))
        place = (int(rng.integers(30, 110)), int(rng.integers(20, 70)))
        write(folder / "test/dot" / f"{index}.png", camera_frame(rng, place))
        mask = np.zeros((ROWS, COLUMNS), np.uint8)
        write(folder / "ground_truth/dot" / f"{index}_mask.png", cv2.circle(mask, place, 6, 255, -1))


def train_on_tiles(folder: Path) -> None:
    """By the command line: a region of 100x70 pixels in 2x3 tiles of 44x40."""
    write_frames(folder / "data")
    commands = [
        ["train", str(folder / "data"), *["--recipe", "lrdan", "--image-size", "44x40", "--epochs", "15"], *VIEW.split()],
        ["export"],
        ["calibrate", "--method", "min-max", "--method", "percentile-99.99"],
    ]
    for words in commands:
        result = CliRunner().invoke(cli, [*words, "-b", str(folder / "bundle")], catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiled", train_on_tiles)


@pytest.fixture(scope="module")
def data(made: Path) -> Path:
    return made / "data"


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(shutil.copytree(made / "bundle", tmp_path_factory.mktemp("tiled") / "bundle"))


def test_the_manifest_records_the_geometry(trained: Bundle) -> None:
    model = trained.manifest.model
    assert model.geometry == Geometry(frame=(ROWS, COLUMNS), region=REGION, canvas=(80, 104), tiles=(2, 3))
    assert model.frame_shape == (ROWS, COLUMNS, 1)
    command = trained.manifest.stages["train"].command
    assert command.endswith(f"--image-size 44x40 {VIEW} --epochs 15")
    for precision in ("fp32", "fp16", "int8"):
        graph = onnx.load(trained.graph(precision)).graph
        shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in [*graph.input, *graph.output]]
        assert shapes == [[0, ROWS, COLUMNS, 1], [0], [0, 80, 104]]


def test_parity_was_measured_on_frames(trained: Bundle) -> None:
    path = trained.file("reports/parity.json", "lrdan-edge export")
    report = from_json(path.read_bytes(), ParityReport, str(path))
    assert {(row.precision, row.runner.split()[0]) for row in report.rows} >= {("fp32", "onnxruntime"), ("fp16", "onnxruntime")}
    for row in report.rows:
        assert row.score_max <= {"fp32": 1e-4, "fp16": 5e-3}[row.precision]
        assert row.auroc is not None
    assert trained.file("reports/parity.md", "lrdan-edge export").read_text().count("| fp16 |") >= 1


def test_pixels_outside_the_region_do_not_count(trained: Bundle) -> None:
    rng = np.random.default_rng(8)
    frame = camera_frame(rng)
    left, top, width, height = REGION
    other = 255 - frame
    other[top : top + height, left : left + width] = frame[top : top + height, left : left + width]
    with Inspector.open(trained, backend="onnxruntime", precision="fp32") as inspector:
        first, second = inspector.inspect([frame, other])
    assert first.score == second.score
    assert first.region == second.region == pytest.approx((20 / 140, 10 / 90, 100 / 140, 70 / 90))


@pytest.mark.parametrize("place", [(40, 30), (70, 45), (112, 74)])  # the middle one lies where tiles overlap
def test_a_defect_appears_at_its_place_in_the_heatmap(trained: Bundle, place: tuple[int, int]) -> None:
    frame = camera_frame(np.random.default_rng(5), place)
    with Inspector.open(trained, backend="onnxruntime", precision="fp32") as inspector:
        (verdict,) = inspector.inspect(frame)
        (twice,) = inspector.inspect(frame.repeat(2, 0).repeat(2, 1))
    assert verdict.outcome == "reject"
    assert verdict.heatmap is not None
    assert verdict.score == pytest.approx(float(verdict.heatmap.max()), rel=1e-6), "one score, of the stitched map"
    row, column = np.unravel_index(int(verdict.heatmap.argmax()), verdict.heatmap.shape)
    left, top, width, height = REGION
    found = (left + (column + 0.5) * width / 104, top + (row + 0.5) * height / 80)
    assert np.hypot(found[0] - place[0], found[1] - place[1]) < 9
    assert twice.score == pytest.approx(verdict.score, rel=1e-3), "another camera of the same view"


def test_the_heatmap_is_drawn_over_its_region(trained: Bundle) -> None:
    region = trained.manifest.model.region_fractions
    frame = np.zeros((180, 280), np.uint8)
    drawn = overlay(frame, np.full((80, 104), 5, np.float32), 5, region)
    glowing = drawn.max(2) > 0
    rows, columns = np.flatnonzero(glowing.any(1)), np.flatnonzero(glowing.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 159, 40, 239)


def test_evaluation_measures_pixels_in_the_region(trained: Bundle, data: Path) -> None:
    result, _ = evaluate(trained, data, backend="onnxruntime", precision="int8", write=False)
    assert result.image_auroc > 0.95
    assert result.pixel_auroc is not None
    assert result.pixel_auroc > 0.9


def test_an_explanation_shows_the_region(trained: Bundle, data: Path, tmp_path: Path) -> None:
    page = explain(trained, [data / "test/dot/0.png"], tmp_path / "page.html", precision="fp32")
    assert (page.images, page.rejected) == (1, 1)
    html = page.path.read_text()
    frames = read_image(data / "test/dot/0.png")[None, :, :, None]
    module = load_network(trained)
    assert module.cut is not None
    with torch.inference_mode():
        seen = module.cut(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
        drawn, _ = module.network(preprocess(seen, trained.manifest.preprocessing))
    expected = Untile(trained.manifest.model)(drawn * 127.5 + 127.5)[0, 0].numpy()
    encoded = html.split('alt="Reconstruction', 1)[0].rsplit("base64,", 1)[1].split('"')[0]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert np.abs(picture.astype(float) - expected.clip(0, 255)).max() <= 1


def test_an_engine_is_built_and_verified_on_frames(trained: Bundle) -> None:
    name = build_engine(trained, BuildRequest("int8", "onnxruntime"))
    golden = read_image(trained.file("golden/00.png", "lrdan-edge calibrate"))
    assert golden.shape == (ROWS, COLUMNS)
    assert all(step.passed for step in verify_engine(trained, name))


def test_only_ae2_is_quantised(trained: Bundle) -> None:
    graph = onnx.load(trained.graph("int8")).graph
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    fed = [node for node in graph.node if quantised & set(node.input)]
    facts = trained.manifest.stages["calibrate"].results["int8"]
    assert (
        sum(node.op_type == "Conv" and node.input[1] in quantised for node in fed)
        == facts["layers"] - len(facts["kept_in_float"])
        > 0
    )
    assert not {node.op_type for node in fed} & {
        "MatMul",
        "Mul",
        "ReduceMean",
        "ReduceMax",
        "Round",
        "Slice",
        "Sub",
        "Transpose",
    }
    assert not [node for node in fed if any(name.startswith(("cut.", "stitch.", "head.")) for name in node.input)]


def test_the_camera_may_have_another_resolution(trained: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewer_exports import export_as_before, export_one_graph

    from lrdan_edge.export.graph import export

    bundle = Bundle.open(shutil.copytree(trained.path, tmp_path / "bundle"))
    with monkeypatch.context() as patch:
        export_one_graph(patch)
        export(bundle, frame_size=(180, 280))
    geometry = Bundle.open(bundle.path).manifest.model.geometry
    assert geometry == Geometry(frame=(180, 280), region=(40, 20, 200, 140), canvas=(80, 104), tiles=(2, 3))
    assert bundle.manifest.stages["export"].command == "lrdan-edge export --frame-size 180x280"
    assert bundle.staleness("calibrate")
    export_as_before(trained, monkeypatch)
    export(bundle)
    assert msgspec.to_builtins(bundle.manifest.model) == msgspec.to_builtins(trained.manifest.model), "as it was trained"


def test_images_of_several_sizes_need_a_frame_size(tmp_path: Path) -> None:
    from lrdan_edge.train.options import TrainOptions
    from lrdan_edge.train.training_data import load_training_data
    from lrdan_edge.train.view import View

    rng = np.random.default_rng(0)
    for index, size in enumerate([(60, 80), (60, 80), (62, 80), (60, 84), (60, 80)]):
        write(tmp_path / f"{index}.png", rng.integers(0, 256, size, np.uint8))
    with pytest.raises(DataError, match="give frame_size to resize them all"):
        load_training_data(tmp_path, TrainOptions(view=View(tiles=(1, 2))))
    material = load_training_data(tmp_path, TrainOptions(view=View(frame_size=(60, 80), tiles=(1, 2))))
    assert material.spec.frame_shape == (60, 80, 1)
    assert material.frames.shape == (8, 1, 60, 40)
