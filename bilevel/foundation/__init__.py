"""The ground floor, which knows nothing of optimisation: types, statuses, trees, compilation."""
