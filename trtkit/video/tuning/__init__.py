"""Choosing how a store is queried: how many best classes count, from which score, in which clusters."""
