"""The deployed model in PyTorch: the networks, the scoring head, tiling and precision."""
