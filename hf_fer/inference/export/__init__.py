"""Exports models as graphs for other runtimes, and compares the outputs of graph and model."""
