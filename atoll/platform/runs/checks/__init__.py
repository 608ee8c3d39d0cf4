"""Checks of an experiment before anything starts."""
