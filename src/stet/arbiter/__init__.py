"""The trained arbiter: features of a mismatch, and the network that decides by them."""

from stet.arbiter.arbiter import Arbiter
from stet.arbiter.features import DEFAULT, FEATURES, Feature, measure, needs_of
from stet.arbiter.load import BUNDLED, as_arbiter, load_arbiter, shipped_arbiter
from stet.arbiter.network import Network
from stet.arbiter.position import Position, Spot

__all__ = [
    "BUNDLED",
    "DEFAULT",
    "FEATURES",
    "Arbiter",
    "Feature",
    "Network",
    "Position",
    "Spot",
    "as_arbiter",
    "load_arbiter",
    "measure",
    "needs_of",
    "shipped_arbiter",
]
