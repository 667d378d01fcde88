"""Controlled experiments on mer-mini: arms x seeds from a YAML, raw JSON for each run, tables with intervals."""
