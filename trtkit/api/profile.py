"""`trtkit profile`: what each block of an exported model takes, and what each cut costs and saves."""

from trtkit.building.profiles import best_cut, check_plot, draw, profile

__all__ = ["best_cut", "check_plot", "draw", "profile"]
