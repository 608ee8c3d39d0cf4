"""The app that a newcomer to Flower starts with: few nodes, few rounds, evaluation on clients."""
