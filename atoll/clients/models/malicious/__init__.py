"""Models that a malicious server sends to read clients' examples off their updates."""
