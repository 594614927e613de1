"""Turns what the user points at into a Subject. The only place that opens his files or runs his code."""
