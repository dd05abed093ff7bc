"""The feature store: prefix outputs by key, in append-only segments with an SQLite index."""
