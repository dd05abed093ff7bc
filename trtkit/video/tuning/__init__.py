"""Choosing how a store is asked: how many best classes count, which objects are alike, from which score."""
