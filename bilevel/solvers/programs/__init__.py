"""Solvers of constrained programs, stated by arrays or by functions."""
