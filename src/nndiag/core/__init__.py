"""The vocabulary: records and the table of rules. Standard library only."""
