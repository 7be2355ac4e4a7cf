"""What is deployed, in PyTorch: the networks, the scoring head, tiling and precision."""
