"""Rationales as evidence: keys, store and filters."""
