"""Attacks on sequences of tokens."""
