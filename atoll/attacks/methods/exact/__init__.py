"""Attacks that solve for examples: from gradients of linear layers and of attention."""
