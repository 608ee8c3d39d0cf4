"""Attacks, audits, poisoned clients and unlearning."""
