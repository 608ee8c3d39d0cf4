"""Audits of privacy: canaries whose presence in a run is tested."""
