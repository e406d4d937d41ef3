"""Grid, runs, results, statistics, leaderboard and report."""
