"""Several networks that answer as one."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Combine = Literal["logits", "probabilities"]


class Ensemble(nn.Module):
    """Logits of several networks, (batch, classes): their mean, or the logarithm of the mean of their probabilities.

    ALMA's growing ensemble takes the mean of logits, its ensemble of k networks that of probabilities.
    """

    def __init__(self, members: Sequence[nn.Module], combine: Combine) -> None:
        super().__init__()
        self.members, self.combine = nn.ModuleList(members), combine

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits of all members together."""
        outputs = torch.stack([member(inputs) for member in self.members])
        if self.combine == "logits":
            return outputs.mean(0)
        return outputs.log_softmax(2).logsumexp(0) - torch.tensor(float(len(self.members))).log()
