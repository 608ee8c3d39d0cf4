"""Attacks that search what a generative model can make."""
