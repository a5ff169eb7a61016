"""Measurements of candor beside the libraries that people use today; see README.md."""
