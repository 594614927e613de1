"""nndiag finds training pathologies in neural networks before they cost a week of GPU time."""

__version__ = "0.1.0"
