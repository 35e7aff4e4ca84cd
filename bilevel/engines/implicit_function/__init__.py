"""Hypergradients by the implicit function theorem, with their error estimates."""
