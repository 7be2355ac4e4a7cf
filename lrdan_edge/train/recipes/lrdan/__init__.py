"""The recipe `lrdan`: dual adversarial training, as in the paper (arXiv 2002.01607)."""
