"""Figures for Prometheus: one list of what there is, and how each process counts and tells it."""
