"""Tables of embeddings: found, fed, stepped, timed."""
