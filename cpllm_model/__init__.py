"""CP-LLM: a context- and pixel-aware language model for no-reference video quality assessment."""

__version__ = "0.1.0"
