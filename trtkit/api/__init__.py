"""The Python API: one function for each command, with the same names for its options."""
