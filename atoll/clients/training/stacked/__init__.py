"""Training of several clients as one: stacked parameters, and sums of their models."""
