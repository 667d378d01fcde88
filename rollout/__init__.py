"""Student sampling: media and messages to ids, engines, workers and their pool, weight receiving."""
