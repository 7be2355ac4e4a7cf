import numpy as np

from lrdan_edge.data.painted import paint_defects


def test_defects_are_painted_only_into_the_region() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 60, 80, 1)).astype(np.uint8)
    left, top, width, height = region = (50, 8, 24, 40)
    changed = paint_defects(frames, region) != frames
    inside = changed[:, top : top + height, left : left + width]
    assert inside.any((1, 2, 3)).all()
    assert changed.sum() == inside.sum()
    assert (paint_defects(frames) != frames).any((1, 2, 3)).all()
