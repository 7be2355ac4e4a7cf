"""A bundle as devices get it."""

import pytest
from parts import Line
from shipped import Device, ship


@pytest.fixture(scope="session")
def device(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Tests whose commands write into the bundle use `Device.copied_to`."""
    return ship(line, tmp_path_factory.mktemp("device"))
