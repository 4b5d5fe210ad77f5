"""Sources, prompts and tokenised examples."""
