"""Running a grid: experiment file -> cells -> child processes -> records."""
