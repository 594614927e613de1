"""Dropout under control: found, played, measured."""
