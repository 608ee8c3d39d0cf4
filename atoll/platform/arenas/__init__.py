"""Arenas: attacks on the captures of defended federations."""
