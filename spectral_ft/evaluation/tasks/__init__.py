"""Task files for the harness, and the functions that they call."""
