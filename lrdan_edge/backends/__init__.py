"""Backends: one module each, all with the same interface."""

BACKENDS = ("tensorrt", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch", "null")
"""The names of the backends. Nothing heavy is imported here, so that the command line can list them quickly."""
