"""Images and datasets: reading, checking, near-copies and groups."""
