"""Captures: recorded messages of clients, and their files."""
