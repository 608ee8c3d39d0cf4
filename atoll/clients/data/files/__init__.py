"""Data sets as files: fetched, cached, and memory-mapped Arrow at rest."""
