"""Estimators that minimise the semi-dual of optimal transport with exact conjugates."""
