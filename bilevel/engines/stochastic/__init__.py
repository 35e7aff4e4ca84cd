"""Hypergradients approached over minibatch steps, by iterates that are carried along."""
