"""Small models with planted faults, for `nndiag demo`: real training code, sick on purpose."""
