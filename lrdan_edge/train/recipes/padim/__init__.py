"""The recipe `padim`: PaDiM (arXiv 2011.08785) on a frozen backbone; one pass over the good images, no gradient steps."""
