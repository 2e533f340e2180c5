"""What schemes are made of: divergences, the objective on a batch, subproblems, and the solvers of their steps."""
