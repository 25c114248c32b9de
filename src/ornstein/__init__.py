"""Ornstein: a diffusion model of your own data, and everything you can do with it."""

__version__ = "0.1.0.dev0"
