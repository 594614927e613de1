"""One forward, watched: what ran, what fed what, which layer reads which argument."""
