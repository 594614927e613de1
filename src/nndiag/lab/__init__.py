"""Measures a live model: borrows it, watches it, trains a private copy, gives it back."""
