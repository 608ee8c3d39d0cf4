"""Threat models: what an attacker is granted, and what it sees."""
