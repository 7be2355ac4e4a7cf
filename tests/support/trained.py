"""Bundles in memory that know only how they were trained."""

from pathlib import Path
from typing import Any

from specs import spec_for

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.manifest import Manifest, StageRecord
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring


def bundle(recipe: str = "feature-restoration", side: int = 128, images: int = 300, **results: Any) -> Bundle:
    model: ModelSpec = spec_for(side, side, 3, recipe=recipe)
    kinds = {"images": images, "colour": images, "sixteen_bit": 0, "turned": 0, "depth_known": False, "aspects": [1.0, 1.0]}
    shown = {
        "training": ["x.png"] * (images * 4 // 5),
        "held_out": ["x.png"] * (images // 5),
        "epochs": 20,
        "steps": 300,
        "usual_steps": 300,
        "image_kinds": kinds | {"heights": [128, 128], "widths": [128, 128]},
        "known_defects": ["abc"],
    } | results
    record = StageRecord(
        finished="", seconds=1, command="lrdan-edge train x", versions={}, inputs={}, outputs=[], options={}, results=shown
    )
    manifest = Manifest(
        schema_version=1,
        written_by="",
        model=model,
        preprocessing=Preprocessing(colour="bgr", resize="area", scale=1, offset=0),
        scoring=Scoring(normalise=False, smoothing_sigma=0, pooling="max"),
        files={},
        stages={"train": record},
    )
    return Bundle(Path("bundle"), manifest)
