"""Decoders of data sets."""
