"""Sweeps: grids and random search over experiments."""
