"""From a quantized network to a plain ONNX graph that computes exactly what a board would."""
