"""Plan to adapted model, through PEFT."""
