"""Arithmetic of differential privacy: what a mechanism spends, and what an audit proves."""
