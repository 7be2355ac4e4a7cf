"""One module per backend, one contract for all."""
