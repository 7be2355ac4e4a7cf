"""Quantisation and the decision: onnx and onnxruntime, no torch."""
