"""What blocks, cuts and the cache take on this machine, and the cut that follows from it."""
