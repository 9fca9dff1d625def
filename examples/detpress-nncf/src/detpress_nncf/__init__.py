"""NNCF's quantization in detpress."""
