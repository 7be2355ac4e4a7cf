"""The recipe `restoration`: AE2 only, trained to restore images with synthetic defects and to mark the defects.

For images of one small object, an autoencoder with a vector code is used instead, and its reconstruction error is scored.
"""
