"""Pools of worker processes, and maps over them."""
