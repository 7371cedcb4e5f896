"""The same training on several machines."""
