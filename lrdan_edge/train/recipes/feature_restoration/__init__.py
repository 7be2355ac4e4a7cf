"""The recipe `feature-restoration`: AE2 restores the features of a pretrained backbone, and a decoder marks defects."""
