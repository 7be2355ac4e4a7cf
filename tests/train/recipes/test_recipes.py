"""The registry: what a recipe's folder must have, and that its names can be listed without torch."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from lrdan_edge.cli.main import cli
from lrdan_edge.errors import TrainingError
from lrdan_edge.train import recipes
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import RECIPES, RENAMED, recipe_named

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
