"""int8: ranges measured on photos, layers that keep the accuracy, and the proof that they do."""
