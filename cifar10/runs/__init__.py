"""A training run in its folder: what it saves, records, prints and shows."""
