"""Array-level numerics that projections, proximal operators and solvers are built on: fixed shapes, jit and vmap."""
