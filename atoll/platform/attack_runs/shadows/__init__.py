"""Shadow federations: the victim's experiment run again, on examples that the attacker chose."""
