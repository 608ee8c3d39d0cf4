"""What an onlooker does: inversion attacks, defenses against them, and the arena of both."""
