"""The chain on a GPU: batches in flight, recorded runs, feature maps kept on the card."""
