"""Runs: one experiment or Flower app, start to end."""
