"""Texts: tokenizers, sequences of tokens, and data sets of texts."""
