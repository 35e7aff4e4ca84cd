"""Hypergradients approached over minibatch steps, by what is carried along."""
