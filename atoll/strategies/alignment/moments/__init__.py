"""Moments of domains: queries to clients, and their answers as tensors."""
