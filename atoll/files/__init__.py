"""Files that are read with limits and hashes and written as a whole."""
