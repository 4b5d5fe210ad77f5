"""Adapted model and examples to a trained adapter, over transformers.Trainer."""
