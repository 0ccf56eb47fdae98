"""Carriers: how weights are sparse while they train. Every method is one of these five with its parts filled in."""

from prunus.carriers.edited import Edited
from prunus.carriers.feedback import Feedback
from prunus.carriers.masked import Masked
from prunus.carriers.parametrized import Parametrized
from prunus.carriers.rates import Rates
from prunus.carriers.retrained import Retrained
from prunus.carriers.site import Carrier, Site

__all__ = ["Carrier", "Edited", "Feedback", "Masked", "Parametrized", "Rates", "Retrained", "Site"]
