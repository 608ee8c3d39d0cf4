"""Attacks on rows of tables, and the baselines that look at public rows alone."""
