"""A decoder of Stet's own for the usual dense families, on the weights of a transformers model."""
