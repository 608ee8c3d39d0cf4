"""Data of a user's own: what a callable that an experiment names returns, as a data set."""
