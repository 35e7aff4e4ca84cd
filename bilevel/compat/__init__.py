"""Other libraries' names on bilevel's solvers, for the way over."""
