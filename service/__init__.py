"""HTTP in, calibrated predictions out. Knows `models`, never torch and never `training`."""
