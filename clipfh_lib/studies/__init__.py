"""Studies of a run that is there: robustness, attention, identification."""
