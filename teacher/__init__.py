"""Privileged context, scoring, and what the teacher's weights are."""
