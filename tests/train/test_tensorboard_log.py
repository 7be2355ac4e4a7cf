"""TensorBoard reads what training wrote; without the package, the error says how to install it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lrdan_edge.errors import MissingExtraError
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.trainer import train

OPTIONS = TrainOptions(recipe="restoration", epochs=2, batch_size=8, image_size=(36, 32), device="cpu", checkpoint_seconds=0)


def test_losses_rate_and_images_are_written_and_change_nothing(stripes: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    silent = train(stripes, tmp_path / "silent", OPTIONS, Progress())

    class Stop(Progress):
        def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
            if step == 5:
                raise KeyboardInterrupt

    shown = replace(OPTIONS, tensorboard=tmp_path / "board")
    with pytest.raises(KeyboardInterrupt):
        train(stripes, tmp_path / "shown", shown, Stop())
    bundle = train(stripes, tmp_path / "shown", shown, Progress())
    assert (bundle.path / "weights.safetensors").read_bytes() == (silent.path / "weights.safetensors").read_bytes()
    events = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/total", "loss/restoration", "learning rate", "spread_ae2"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss/total")] == [1, 2, 3, 4, 5, 6]  # the killed run's fifth is gone
    history = [event.value for event in events.Scalars("loss/total")]
    expected = bundle.manifest.stages["train"].results["losses"]["total"]
    assert sum(history[3:]) / 3 == pytest.approx(expected, rel=1e-5)
    assert len(events.Images(tags["images"][0])) == 2


def test_a_missing_package_is_named(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        MissingExtraError, match=r"the TensorBoard log needs tensorboard, .*pip install 'lrdan-edge\[tensorboard\]'"
    ):
        train(stripes, tmp_path / "bundle", replace(OPTIONS, tensorboard=tmp_path / "board"), Progress())
