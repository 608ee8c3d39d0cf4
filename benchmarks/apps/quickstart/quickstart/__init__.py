"""Flower's first app: few nodes, few rounds, evaluation on clients."""
