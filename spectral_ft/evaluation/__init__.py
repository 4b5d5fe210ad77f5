"""Scores, through lm-eval-harness."""
