"""Experiment files, and the checks before a run."""
