"""Results in lines: aggregates, the leaderboard and its order, comparisons of runs, on the terminal and in files."""
