"""Reads arguments, imports late, exits."""
