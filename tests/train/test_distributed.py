"""Two processes under torchrun (Gloo) give what one gives with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_learners
import torch
from safetensors.torch import load_file

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT
from lrdan_edge.errors import TrainingError
from lrdan_edge.model.deployed import load_ae2
from lrdan_edge.model.networks import spec_for
from lrdan_edge.train.distributed import Team
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.trainer import train


def torchrun(logs: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--log-dir", str(logs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learners")
    done = torchrun(folder / "logs", shared_learners.__file__, str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", shared_learners.KINDS)
def test_losses_weights_and_statistics_are_those_of_one_process(learners: Path, kind: str) -> None:
    alone = load_file(learners / f"{kind}-alone-0.safetensors")
    shares = [load_file(learners / f"{kind}-shared-{rank}.safetensors") for rank in range(2)]
    for name, expected in alone.items():
        assert torch.equal(shares[0][name], shares[1][name]), name
        torch.testing.assert_close(
            shares[0][name], expected, rtol=1e-6, atol=1e-7, msg=lambda said, name=name: f"{name}: {said}"
        )
    assert all(len(curve) == shared_learners.size_of(kind)[1] for name, curve in alone.items() if name.startswith("loss."))


def epochs_of(bundle: Path) -> list[dict[str, float]]:
    losses: dict[str, Any] = json.loads((bundle / "reports" / "training.json").read_text())
    return losses["epochs"]  # type: ignore[no-any-return]


class StopAtThree(Progress):
    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
        if step == 3:
            raise KeyboardInterrupt


def test_torchrun_goes_on_with_a_run_and_keeps_its_curve(stripes: Path, tmp_path: Path) -> None:
    options = TrainOptions(recipe="lrdan", epochs=4, batch_size=6, checkpoint_seconds=0)
    train(stripes, tmp_path / "one", options, Progress())
    with pytest.raises(KeyboardInterrupt):
        train(stripes, tmp_path / "two", options, StopAtThree())
    words = f"-m lrdan_edge train {stripes} --recipe lrdan --epochs 4 --batch-size 6 --bundle {tmp_path / 'two'}"
    done = torchrun(tmp_path / "logs", *words.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained on 30 images") == done.stderr.count("resuming after step 2") == 1
    assert "processes 1, here 2" in done.stderr  # and threads, where this process had more
    bundle = Bundle.open(tmp_path / "two")
    results = bundle.manifest.stages["train"].results
    assert (results["processes"], results["epochs"], results["steps"]) == (2, 4, 20)
    assert not (bundle.path / CHECKPOINT).exists()
    assert torch.isfinite(load_ae2(bundle)(torch.zeros(1, 32, 32, 1, dtype=torch.uint8))[0]).all()
    for two, one in zip(epochs_of(tmp_path / "two"), epochs_of(tmp_path / "one"), strict=True):
        for name in ("total", "girec", "irec"):
            np.testing.assert_allclose(two[name], one[name], rtol=0.1)  # where convolutions are in bfloat16, rounding is coarse


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    assert [Team(rank, 4).share(8) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    with pytest.raises(TrainingError, match=r"batches of 8 cannot be shared by 3 processes: give --batch-size 9"):
        Team(1, 3).share(8)
    known = shared_learners.known_defects(spec_for(32, 32, 1))
    with pytest.raises(TrainingError, match=r"1 known defects beside a batch of 10 .* by 2 processes: give --batch-size 14"):
        known.draw(10, Team(1, 2).share(10), (0, 0))
