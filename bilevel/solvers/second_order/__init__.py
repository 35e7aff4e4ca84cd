"""Second-order methods: curvature from matrices, products or pairs of gradients."""
