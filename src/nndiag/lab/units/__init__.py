"""Weights seen as units: one row per unit, whatever a layer keeps them in."""
