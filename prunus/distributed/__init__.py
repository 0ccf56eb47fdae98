"""Training on several ranks: masks proven to agree, gradients that travel packed; `sharded` for weights spread out."""

from prunus.distributed.agree import assert_ranks_agree
from prunus.distributed.packed import Packing, pack_gradients_

__all__ = ["Packing", "assert_ranks_agree", "pack_gradients_"]
