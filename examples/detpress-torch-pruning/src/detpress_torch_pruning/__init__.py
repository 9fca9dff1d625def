"""Torch-Pruning's importances and dependency graph in detpress."""
