"""torchao's quantization by PyTorch 2 export (PT2E) in detpress."""
