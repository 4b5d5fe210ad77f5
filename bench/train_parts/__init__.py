"""The parts of the training benchmark, `../train.py`."""
