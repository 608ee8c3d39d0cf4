"""What an onlooker does: gradient inversion, and the generators that it draws images from."""
