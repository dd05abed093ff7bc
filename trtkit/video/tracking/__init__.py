"""Tracks: the detections of one person or car, linked from frame to frame."""
