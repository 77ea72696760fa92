"""Benchmarks in the lab, side by side with what administrators had before. Not tests: nothing
fails for being slow, and nothing here is a limit."""
