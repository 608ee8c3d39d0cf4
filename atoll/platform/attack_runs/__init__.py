"""Attacks on the captures of a run directory, and what they need."""
