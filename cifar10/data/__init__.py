"""Data sets: what they are, where they come from, and files of any kind on their way into record files."""
