"""The version of the package: its one home, which setup.py reads too."""

__version__ = "1.1.0"
