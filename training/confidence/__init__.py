"""The evidence behind a version's confidence: fitted on the calibration split, counted on test, tested before it is published."""
