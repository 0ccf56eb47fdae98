"""Training on several ranks: masks proven to agree, gradients that travel packed, exact rankings of sharded scores."""

from prunus.distributed.agree import assert_ranks_agree
from prunus.distributed.packed import Packing, pack_gradients_
from prunus.distributed.sharded import Sharded, whole_masks
from prunus.distributed.threshold import GlobalOverRanks

__all__ = ["GlobalOverRanks", "Packing", "Sharded", "assert_ranks_agree", "pack_gradients_", "whole_masks"]
