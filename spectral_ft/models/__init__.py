"""Open a checkpoint: find its files, stream its weights, load its model and tokenizer."""
