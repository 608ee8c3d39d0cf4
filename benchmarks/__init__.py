"""Timings side by side with peers, on the same clients, data and machine; not tests."""
