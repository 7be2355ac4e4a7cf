import msgspec
import pytest

from lrdan_edge.bundle import Bundle, engine_stage
from lrdan_edge.errors import BackendError, ChangedFileError, EngineError, MissingExtraError
from lrdan_edge.export.engine import BuildRequest, build_engine
from lrdan_edge.manifest import PRECISIONS, EngineSidecar, to_json
from lrdan_edge.runtime.engines import engines, open_engine
from lrdan_edge.runtime.golden import golden_frames, golden_scores
from lrdan_edge.runtime.select import choose


def build(bundle: Bundle, precision: str = "int8") -> str:
    return build_engine(bundle, BuildRequest(precision, "onnxruntime"))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_scores_as_its_graph(own_bundle: Bundle, precision: str) -> None:
    name = build(own_bundle, precision)
    (engine,) = engines(own_bundle)
    assert (engine.name, engine.obstacle) == (name, None)
    assert engine.sidecar.golden_check == pytest.approx(0, abs=1e-3)
    with open_engine(own_bundle, engine) as backend:
        scores = backend.infer(golden_frames(own_bundle)).score
    assert scores.tolist() == pytest.approx(golden_scores(own_bundle).scores[precision], rel=1e-3)


def test_a_changed_engine_is_refused(own_bundle: Bundle) -> None:
    path = own_bundle.path / "engines" / build(own_bundle)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChangedFileError, match="lrdan-edge build-engine --int8"):
        open_engine(own_bundle, engines(own_bundle)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_version": "1.0.0"}, "built by ONNX Runtime 1.0.0"),
        ({"platform": "linux-aarch64"}, "built on linux-aarch64"),
        ({"device_features": ["avx512_vnni_9"]}, "was built for"),
        ({"graph_sha256": "0" * 64}, "older than model.int8.onnx"),
    ],
)
def test_an_engine_that_does_not_fit_says_why_and_what_to_do(own_bundle: Bundle, change: dict[str, object], said: str) -> None:
    name = build(own_bundle)
    sidecar = msgspec.structs.replace(engines(own_bundle)[0].sidecar, **change)
    assert isinstance(sidecar, EngineSidecar)
    record = own_bundle.manifest.stages[engine_stage(name)]
    engine_bytes = (own_bundle.path / "engines" / name).read_bytes()
    with own_bundle.stage(engine_stage(name), command=record.command) as stage:
        stage.path(f"engines/{name}").write_bytes(engine_bytes)
        stage.path(f"engines/{name}.json").write_bytes(to_json(sidecar))
    (engine,) = engines(own_bundle)
    assert said in str(engine.obstacle)
    with pytest.raises(EngineError, match="lrdan-edge build-engine --int8 --target onnxruntime"):
        open_engine(own_bundle, engine)
    assert said in choose(own_bundle, "auto").describe(), "auto says why it passed the engine over"


def test_without_tensorrt_the_error_says_how_to_install_it(own_bundle: Bundle) -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises((MissingExtraError, EngineError), match="install"):
            build_engine(own_bundle, BuildRequest("fp16"))
        assert not [name for name in own_bundle.manifest.files if name.startswith("engines/")]
        with pytest.raises(BackendError, match="no tensorrt runs here"):
            choose(own_bundle, "tensorrt")
    else:
        pytest.skip("TensorRT is installed")


def test_an_engine_older_than_its_graph_is_passed_over(own_bundle: Bundle) -> None:
    from lrdan_edge.calibration.calibrate import calibrate

    build(own_bundle)
    with own_bundle.stage("calibrate", command="x") as stage:
        for name in own_bundle.manifest.stages["calibrate"].outputs:
            data = (own_bundle.path / name).read_bytes()
            stage.path(name).write_bytes(data + (b" " if name.endswith(".onnx") else b""))
    assert "older than model.int8.onnx" in str(engines(own_bundle)[0].obstacle)
    calibrate(own_bundle)
    build(own_bundle)
    assert engines(own_bundle)[0].obstacle is None
