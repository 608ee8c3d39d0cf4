"""The round loop of a federation."""
