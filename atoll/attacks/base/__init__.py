"""Bases of attacks: settings, optimisation, generators, stages."""
