"""The commands of ``atoll``, a function each, with their options."""
