"""Compiling the networks with torch.compile."""

import os
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.options import TrainOptions


def compile_networks(networks: nn.Module, options: TrainOptions, device: torch.device, *, by_default: bool = True) -> list[str]:
    """Compile the networks with torch.compile, if the options ask for it, or by default on a GPU.

    Args:
        networks: The networks.
        options: The options.
        device: The device that trains.
        by_default: Whether a run is long enough that compiling pays off on a GPU.

    Returns:
        Notes for the user.

    Raises:
        TrainingError: The options require it, and it is not possible.
    """
    if options.compile is False or (options.compile is None and not (by_default and device.type == "cuda")):
        return []
    reasons = {
        "no C compiler is found": not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))),
        "Triton is not installed": device.type == "cuda" and find_spec("triton") is None,
    }
    if found := [reason for reason, applies in reasons.items() if applies]:
        if options.compile:
            raise TrainingError(f"the networks cannot be compiled, since {found[0]}", "give {compile:off}")
        return [f"the networks are not compiled, since {found[0]}"]
    for network in networks.children():
        network.compile()
    return []
