"""Continual learning with a growable bank of lottery tickets over one frozen backbone."""

__version__ = "0.1.0"
