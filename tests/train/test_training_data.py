"""Which size the networks see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from specs import spec_for

from lrdan_edge.errors import DataError
from lrdan_edge.train.network_images import automatic_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((96, 100), (96, 100)),
        ((109, 201), (108, 200)),
        ((1024, 1024), (256, 256)),
        ((480, 640), (192, 256)),
    ],
)
def test_the_default_size_comes_from_the_images(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert automatic_size(*size) == expected


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_every_automatic_size_is_supported_or_refused(height: int, width: int) -> None:
    try:
        size = automatic_size(height, width)
    except DataError:
        assert min(height, width) < 28 or min(height, width) / max(height, width) < 28 / 256
    else:
        assert spec_for(*size, 1).frame_shape == (*size, 1)
        assert max(size) <= 256
