"""A manifest's sizes make no runtime ask for more memory than there is."""

import msgspec
import pytest
from strangers import MODEL

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.manifest import manifest_to_json
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.bundle.view import Geometry
from lrdan_edge.engines import memory
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.errors import BackendError, BundleError
from lrdan_edge.runtime.inspector import Inspector


@pytest.mark.parametrize(
    "change",
    [
        {"height": 65536, "width": 65536},
        {"base_channels": 65536, "downsamplings": 16},
        {"base_channels": 8192, "downsamplings": 1},
        {"latent_channels": 65536},
        {"height": 16384, "width": 16384, "code": "vector", "latent_channels": 8192},
    ],
    ids=str,
)
def test_sizes_that_no_memory_holds_are_refused(own_bundle: Bundle, change: dict[str, object]) -> None:
    fields = msgspec.structs.asdict(MODEL) | change
    with pytest.raises(msgspec.ValidationError, match=r"too large|a side above 16384 pixels"):
        msgspec.convert(fields, ModelSpec)
    model = own_bundle.manifest.model
    for name, value in change.items():
        msgspec.structs.force_setattr(model, name, value)
    (own_bundle.path / "manifest.json").write_bytes(manifest_to_json(own_bundle.manifest))
    with pytest.raises(BundleError, match=r"manifest.json cannot be read \(.*(too large|a side above)"):
        Bundle.open(own_bundle.path)


def test_frames_that_do_not_fit_into_the_memory_are_refused(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(frame=(16384, 16384), region=(0, 0, 32, 32), canvas=(32, 32))
    own_bundle.manifest.model = msgspec.structs.replace(own_bundle.manifest.model, geometry=geometry)
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    for backend in ("auto", "onnxruntime", "torch"):
        with pytest.raises(
            BackendError, match=r"one frame of 16384x16384 pixels needs at least 1\.3 GiB, and 1\.0 GiB are free"
        ):
            Inspector.open(own_bundle, backend=backend)
    with pytest.raises(BackendError, match="one frame of 16384x16384"):
        build_engine(own_bundle, BuildRequest("fp32", "onnxruntime"))
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    with pytest.raises(BundleError, match="has the sizes"):
        Inspector.open(own_bundle, backend="onnxruntime")
