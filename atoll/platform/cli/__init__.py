"""The command line, ``atoll``."""
