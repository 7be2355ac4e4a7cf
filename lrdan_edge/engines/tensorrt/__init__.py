"""The parts that only TensorRT engines need: options, the builder, its timing cache and log, and refitting."""
