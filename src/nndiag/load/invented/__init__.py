"""Inputs for a model that came without data: guessed, tried, repaired."""
