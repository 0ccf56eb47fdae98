"""Training while the data arrive: megabatch after megabatch, pruned and trained, evaluated after each."""
