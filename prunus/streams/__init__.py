"""Streams: data that arrive in megabatches; all as functions over ids, the positions of examples in a data set."""

from prunus.streams.cut import app_layout, cut, hold_out
from prunus.streams.few_shot import few_shot
from prunus.streams.orders import ORDERS, Order, balanced, by_class, given, permuted
from prunus.streams.plan import exponent, exponents, of_exponent, sparsities, sparsity_at
from prunus.streams.replay import (
    FractionReplay,
    FullReplay,
    LastReplay,
    NoReplay,
    Replay,
    Reservoir,
    replay,
)

__all__ = [
    "ORDERS",
    "FractionReplay",
    "FullReplay",
    "LastReplay",
    "NoReplay",
    "Order",
    "Replay",
    "Reservoir",
    "app_layout",
    "balanced",
    "by_class",
    "cut",
    "exponent",
    "exponents",
    "few_shot",
    "given",
    "hold_out",
    "of_exponent",
    "permuted",
    "replay",
    "sparsities",
    "sparsity_at",
]
