"""Randomness is data: every draw comes from a generator named by (seed, purpose, step)."""

from hashlib import blake2b

import torch


def seeded(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator that depends on its arguments alone.

    No generator is ever stored, so nothing about it has to be saved: whoever knows the seed, the purpose and the step
    draws the same numbers again, on every rank and after every resume.

    >>> int(torch.randint(1000, (), generator=seeded(0, "shuffle", 3)))
    863
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)
