"""Attack methods, one a module."""
