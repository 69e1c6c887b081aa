"""Treadle turns the DevOps loop for one engineer with a model, driven by data."""

__version__ = "0.1.0"
