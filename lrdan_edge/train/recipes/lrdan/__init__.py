"""The recipe `lrdan`: the paper's dual adversarial training."""
