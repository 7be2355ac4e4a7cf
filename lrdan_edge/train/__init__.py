"""Training: networks, losses, trainer (needs torch)."""
