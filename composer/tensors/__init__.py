"""Read the tensors of weights files, and match them with those of a network."""
