"""Run records to tables."""
