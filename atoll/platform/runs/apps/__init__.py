"""Runs of Flower apps."""
