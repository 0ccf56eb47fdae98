"""What the larger keys of a recipe hold: `search`, `learn`, `anytime`, `scaling`."""

from prunus.settings.anytime import Anytime
from prunus.settings.learn import SELECTION, Learn
from prunus.settings.scaling import Scaling, Tuned
from prunus.settings.search import Search

__all__ = ["SELECTION", "Anytime", "Learn", "Scaling", "Search", "Tuned"]
