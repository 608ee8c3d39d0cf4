"""Tests of Atoll, folder by folder as the package is; what they share is in ``tests.support``."""
