"""Membership inference: whether an example was among a client's, from what the server sees."""
