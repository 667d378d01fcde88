"""Objective, plan, DeepSpeed ranks and weight publishing."""
