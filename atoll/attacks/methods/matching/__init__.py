"""Attacks that optimise examples until their update matches the observed one."""
