"""What everything stands on and what knows nothing of optimisation: types, statuses, trees, compilation."""
