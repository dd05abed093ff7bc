"""The footage store: an SQLite file with objects and clusters, and feature maps beside it."""
