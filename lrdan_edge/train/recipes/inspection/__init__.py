"""The recipe `inspection`: AE2 only, trained to restore images with synthetic defects and to mark the defects.

Images of one small object are coded as a vector instead, and their reconstruction error is scored.
"""
