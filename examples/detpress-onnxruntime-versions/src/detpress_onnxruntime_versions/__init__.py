"""ONNX Runtime's static quantization, by two of its versions, each in an environment of its own."""
