"""Figures of runs: what came out, as pictures, each with its numbers beside it."""
