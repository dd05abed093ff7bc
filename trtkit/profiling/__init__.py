"""What every block of a model takes, and the cut that follows from it."""
