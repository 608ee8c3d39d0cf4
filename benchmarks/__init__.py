"""Timings side by side with peers, on the same clients, data and machine; never part of the tests."""
