"""Schedules of sparsity learned by reinforcement learning (Tessera et al. 2022). Needs the extra ``rl``."""

from importlib.util import find_spec

for _package in ("gymnasium", "stable_baselines3"):
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"learning schedules needs {_package}; pip install 'prunus[rl]'", name=_package)
