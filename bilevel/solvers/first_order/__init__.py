"""First-order methods: gradients, prox steps, fixed points, and the working sets that drive them."""
