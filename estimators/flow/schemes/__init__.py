"""One file a scheme, an estimator each, and what they share: `base` and `stepwise`."""
