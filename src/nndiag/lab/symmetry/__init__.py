"""Identical units: found, trained, judged."""
