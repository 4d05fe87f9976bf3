"""modscale: architecture search and model scaling of EfficientMod vision networks."""

__version__ = "0.1.0"
