"""Benchmarks against the packages that do the same, one command each: python -m experiments.peers.NAME."""
