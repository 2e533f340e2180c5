"""Problem families, one file each: functions that build a `Problem` from validated keyword parameters."""
