"""Tastemaker: teach a text-to-image diffusion model a taste, and prove that it learned it."""

__version__ = "0.1.0"
