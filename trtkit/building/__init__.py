"""From exported models to a bundle: the request, the tree of stages, the engines, the verification."""
