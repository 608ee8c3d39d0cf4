"""Files: reading with limits and hashes, atomic writing."""
