"""What the package needs of the machine: its devices, its signals, locks between its processes."""
