"""Photos: finding, reading, decoding, resizing, and doing so ahead of their use."""
