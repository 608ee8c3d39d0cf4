"""Capture validation: a captured client is replayed and compared."""
