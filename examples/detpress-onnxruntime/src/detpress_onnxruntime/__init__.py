"""ONNX Runtime's own quantization in detpress."""
