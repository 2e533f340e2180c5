"""The contract: measures, oracles, problems, estimators, and the array boundary between them and their users.

A package of its own because `mongebench.problem` and `mongebench.estimator` are functions.
"""
