"""Hypergradients by differentiating the solver's own steps."""
