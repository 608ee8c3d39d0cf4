"""Threat models: capabilities of an attacker, and the observation that they grant."""
