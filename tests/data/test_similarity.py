"""Near-copies: found under other light, not cried where images merely look alike."""

import gzip
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import Array, exposed, good_image, shared_data, surface
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lrdan_edge.data.images import list_images
from lrdan_edge.data.scan import Scan
from lrdan_edge.data.similarity import find_near_copies, join, thumbnail, whiten


def thumbnails(images: list[Array]) -> Array:
    return np.stack([thumbnail(image) for image in images])


@pytest.mark.parametrize(("parts", "exposures"), [(8, 3), (40, 6)])
def test_parts_under_several_exposures_are_the_groups(parts: int, exposures: int) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(parts), exposures)
    surfaces = [surface(rng) for _ in range(parts)]
    copies = find_near_copies(thumbnails([exposed(surfaces[part], rng) for part in truth]))
    labels = join(len(truth), copies.pairs)
    assert len(np.unique(labels)) == parts
    assert len({(a, b) for a, b in zip(labels.tolist(), truth.tolist(), strict=True)}) == parts


def test_parts_in_one_fixture_are_not_near_copies() -> None:
    rng = np.random.default_rng(1)
    layout = 4 * surface(rng)
    assert find_near_copies(thumbnails([exposed(layout + surface(rng), rng) for _ in range(120)])).threshold is None


def test_few_copies_among_many_images_are_found_exactly() -> None:
    rng = np.random.default_rng(2)
    images = [exposed(surface(rng), rng) for _ in range(150)]
    copies = find_near_copies(thumbnails([*images, images[3], images[77]]))
    assert copies.pairs.tolist() == [[3, 150], [77, 151]]
    assert (copies.similarity > 0.99).all()


def test_a_gradual_change_is_not_a_chain_of_near_copies() -> None:
    rng = np.random.default_rng(3)
    x = np.arange(64)
    stripes = [np.sin(x / 3 + phase)[None, :] + np.zeros((64, 1)) for phase in rng.uniform(0, 6.28, 200)]
    assert find_near_copies(thumbnails([exposed(image, rng) for image in stripes])).threshold is None


def test_stripes_of_eight_phases_are_eight_groups_or_none() -> None:
    rng = np.random.default_rng(3)
    copies = find_near_copies(thumbnails([good_image(rng) for _ in range(100)]))
    assert len(np.unique(join(100, copies.pairs))) in (8, 100)


@pytest.mark.parametrize("digit", [0, 1, 7])
def test_digits_of_one_class_are_not_near_copies(digit: int) -> None:
    root = shared_data("mnist")
    pixels = gzip.decompress((root / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = np.frombuffer(gzip.decompress((root / "train-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    digits = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)[labels == digit][:1500]
    assert find_near_copies(thumbnails(list(digits))).threshold is None


@pytest.mark.parametrize("texture", ["brick", "gravel", "grass"])
def test_crops_of_one_texture_are_not_near_copies(texture: str) -> None:
    data = pytest.importorskip("skimage.data")
    photograph = getattr(data, texture)()
    crops = [photograph[y : y + 128, x : x + 128] for y in range(0, 385, 24) for x in range(0, 385, 24)]
    assert find_near_copies(thumbnails(crops)).threshold is None


def test_real_tiles_are_grouped_as_their_file_names_say() -> None:
    """The six exposures of a tile have neighbouring numbers (exp1_num_290047, exp2_num_290068, …); nothing else knows them."""
    paths = list_images(shared_data("magnetic-tile") / "train" / "good")
    key = [tuple(map(int, re.findall(r"\d+", path.stem))) for path in paths]  # exposure, number
    scan = Scan()
    scan.require(paths)
    labels = join(len(paths), scan.near_copies(paths)[1].pairs)
    order = sorted(range(len(paths)), key=lambda place: key[place][1])
    same = [labels[a] == labels[b] for a, b in pairwise(order) if key[b][0] == key[a][0] + 1 and key[b][1] - key[a][1] < 40]
    assert len(same) > 100
    assert np.mean(same) > 0.9
    apart = [labels[a] == labels[b] for a in range(len(paths)) for b in range(a) if abs(key[a][1] - key[b][1]) > 20000]
    assert np.mean(apart) < 0.005


@given(st.integers(1, 30), st.data())
@settings(max_examples=50, deadline=None)
def test_joining_matches_scipys_connected_components(count: int, data: st.DataObject) -> None:
    place = st.integers(0, count - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(place, place), max_size=40)), np.int64).reshape(-1, 2)
    labels = join(count, pairs)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, expected = connected_components(graph, directed=False)
    assert len(set(zip(labels.tolist(), expected.tolist(), strict=True))) == len(set(labels.tolist())) == expected.max() + 1


@pytest.mark.parametrize("count", [50, 8])  # more images than numbers each, and fewer
def test_whitening_matches_a_float64_version_of_its_formula(count: int) -> None:
    found = np.random.default_rng(4).standard_normal((count, 12)) @ np.diag(np.arange(1.0, 13))
    centred = found - found.mean(0)
    covariance = centred.T @ centred / count
    typical = np.trace(covariance @ covariance) / np.trace(covariance)
    values, vectors = np.linalg.eigh(covariance + 0.1 * typical * np.eye(12))
    inverse_root = vectors @ np.diag(values**-0.5) @ vectors.T
    expected = centred @ inverse_root
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    own = whiten(found.astype(np.float32))
    np.testing.assert_allclose(own @ own.T, expected @ expected.T, atol=1e-4)


def test_blank_images_and_a_single_image_have_no_near_copies() -> None:
    assert find_near_copies(thumbnails([np.full((40, 40), 7, np.uint8)] * 2)).threshold is None  # blank: nothing of its own
    assert find_near_copies(thumbnails([np.eye(40, dtype=np.uint8) * 200])).threshold is None
