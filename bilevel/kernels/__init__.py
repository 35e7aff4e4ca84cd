"""Numerics on arrays for projections, proximal operators and solvers: fixed shapes, jit and vmap."""
