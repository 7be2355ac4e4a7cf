"""The recipe `patchcore`: PatchCore (arXiv 2106.08265) on a frozen backbone; one pass over the good images, no gradient steps."""
