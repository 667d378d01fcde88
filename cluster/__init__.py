"""Processes and machines, no machine learning: runtimes and placement."""
