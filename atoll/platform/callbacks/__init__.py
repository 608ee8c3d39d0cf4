"""Callbacks: who is told of a run's rounds."""
