"""Weights of layers as functions of what is trained: masks, and companders."""
