"""Trials that race to a validation error, and the cell of a study that they make."""
