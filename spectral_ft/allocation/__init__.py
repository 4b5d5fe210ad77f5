"""Report to plan: which matrices are trained, with which rank. Pure; no torch, no peft."""
