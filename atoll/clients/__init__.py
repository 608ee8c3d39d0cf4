"""Clients: data, models, local training, and the Flower ClientApp around them."""
