"""Pure mathematics: a matrix in, numbers out. No configuration, no model, no torch."""
