"""The TensorRT family: `tensorrt` 8.5.3 to 11 and `tensorrt-rtx`, one backend for all."""
