"""Callbacks: observers of a run's rounds."""
