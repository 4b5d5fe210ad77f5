"""What a method decides beyond ranks; most methods are YAML over `lora.py`."""
