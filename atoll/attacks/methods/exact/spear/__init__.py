"""SPEAR: exact inversion of batches by low rank and ReLU sparsity (Dimitrov et al., 2024)."""
