"""MER-UniBench: the nine sets, their metrics to the digit, and the commands `omniopsd bench ...`."""
