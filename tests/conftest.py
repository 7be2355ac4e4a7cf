"""One small bundle that went through every stage."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_once import made_once
from parts import Line, defective_image, good_image, write

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.engines.keys import KEY_VARIABLE


def pytest_configure(config: pytest.Config) -> None:
    """Where processes share the cores (``-n``), one thread each: they are started after this and inherit it."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Keep what the imports made out of every later collection, which would take a second to look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def engine_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that signs the tests' engines: never the user's own."""
    path = tmp_path_factory.mktemp("config") / "engine.key"
    os.environ[KEY_VARIABLE] = str(path)  # subprocesses are to find it too
    return path


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A bundle through train, export and calibrate. Tests that write use `own_line`."""
    pytest.importorskip("torch")
    from fewer_exports import keep_registry

    from lrdan_edge.calibration.calibrate import calibrate
    from lrdan_edge.export.graph import export
    from lrdan_edge.train.progress import Progress
    from lrdan_edge.train.trainer import TrainOptions, train

    def make(folder: Path) -> None:
        data = folder / "data"
        rng = np.random.default_rng(7)
        for index in range(96):
            write(data / "train" / "good" / f"{index}.png", good_image(rng))
        for index in range(60):
            write(data / "calibration" / "good" / f"{index}.png", good_image(rng))
        for index in range(20):
            write(data / "test" / "good" / f"{index}.png", good_image(rng))
            image, mask = defective_image(rng)
            write(data / "test" / "blob" / f"{index}.png", image)
            write(data / "ground_truth" / "blob" / f"{index}_mask.png", mask)
        bundle = train(data, folder / "bundle", TrainOptions(recipe="lrdan", epochs=16), Progress())
        keep_registry()
        export(bundle)
        calibrate(bundle)

    folder = made_once(tmp_path_factory, "line", make)
    return Line(folder / "data", folder / "bundle")


@pytest.fixture
def own_line(line: Line, tmp_path: Path) -> Line:
    """A copy of `line`'s bundle that the test may change."""
    shutil.copytree(line.bundle, tmp_path / "bundle")
    return Line(line.data, tmp_path / "bundle")


@pytest.fixture
def own_bundle(own_line: Line) -> Bundle:
    return Bundle.open(own_line.bundle)
