"""The program: run config, data, loop, checkpoint, evaluation, report, command line."""
