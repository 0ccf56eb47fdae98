"""Steps-to-result: how far a larger batch shortens a training, and what sparsity changes about that."""
