"""Tests; the real engines on tiny models."""
