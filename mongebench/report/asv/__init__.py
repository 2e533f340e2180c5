"""Results over commits, in the dashboard of airspeed velocity (asv)."""
