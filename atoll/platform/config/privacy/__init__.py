"""Differential privacy of an experiment: its budget, and what its guarantees are worth."""
