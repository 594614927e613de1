"""One file, one command: its options, its help, two late imports, one call."""
