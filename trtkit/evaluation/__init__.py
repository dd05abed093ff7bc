"""What a classifier is measured on and by: labelled photos, scores, the models to be scored."""
