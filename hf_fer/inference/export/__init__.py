"""Models as graphs for other runtimes, with proof that they answer the same."""
