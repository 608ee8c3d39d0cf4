"""Models of sequences of tokens: recurrent networks, transformers, means of embeddings."""
