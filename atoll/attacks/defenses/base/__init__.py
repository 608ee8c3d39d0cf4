"""The base of defenses: their interface, and what several of them share."""
