"""The stages of a run: each reads values, leaves a file, and is not done again where that file is.

A stage joins what the packages below offer; the packages do not know one another.
"""
