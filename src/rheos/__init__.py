"""rheos: train, shorten, sample, steer and measure flows."""
__version__ = "0.1.0"
