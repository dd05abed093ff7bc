"""Video: index footage with the cheap tail now, answer questions with the expensive one later."""
