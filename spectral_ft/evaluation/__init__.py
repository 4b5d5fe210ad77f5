"""Scores: of what a model writes through lm-eval-harness, of a classifier by an evaluator of our own."""
