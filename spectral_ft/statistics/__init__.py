"""Honest statistics of scores: how sure a number is, and whether two differ."""
