"""Starters: commented experiments and a Flower app, which ``atoll init`` writes."""
