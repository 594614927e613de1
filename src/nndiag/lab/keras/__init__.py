"""Keras models as torch layers."""
