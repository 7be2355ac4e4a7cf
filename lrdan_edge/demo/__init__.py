"""The demonstration: a photograph becomes a conveyor, and the whole line runs over it."""
