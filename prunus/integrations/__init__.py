"""Thin adapters to the trainers of others: each loads its package, so import the one you need by its own name."""
