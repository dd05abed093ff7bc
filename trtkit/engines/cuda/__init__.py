"""CUDA through cuda-python: the device, its memory and streams, and arrays of other libraries on it."""
