"""Bridges: the network of a checkpoint in the forms of other libraries, built from its weights alone."""
