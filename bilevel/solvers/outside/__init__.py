"""Solvers of other packages, behind the same interface."""
