"""What the statistics promise, put to the test: coverage, power, false alarms, with fixed seeds."""
