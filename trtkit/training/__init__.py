"""Transfer learning: on top of the runtime, whose decoding and feature store it uses."""
