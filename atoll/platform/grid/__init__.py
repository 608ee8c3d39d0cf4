"""Flower's Grid on a pool of Ray workers."""
