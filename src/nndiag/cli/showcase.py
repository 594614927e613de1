"""nndiag demo: all six questions on bundled data and small models with planted faults."""
