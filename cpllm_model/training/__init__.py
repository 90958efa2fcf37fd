"""Rendering and degrading clips, and training CP-LLM on them."""
