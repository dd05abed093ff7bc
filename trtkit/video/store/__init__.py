"""The video store: what ingest found, in one SQLite file, and feature maps beside it."""
