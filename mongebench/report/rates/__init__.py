"""Whether the flows of a run keep the rate of the theory: verdicts on their traces."""
