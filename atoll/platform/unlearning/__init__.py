"""Unlearning of clients: the run that undoes their part, and what their examples tell of it."""
