"""Kinds of inputs: how stored examples become tensors."""
