"""The commands of ``atoll``, and what they share at the terminal."""
