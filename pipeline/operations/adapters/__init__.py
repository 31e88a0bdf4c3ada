"""Adapters that are made of deltas."""
