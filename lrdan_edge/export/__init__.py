"""From weights to deploy graphs (needs torch and onnx)."""
