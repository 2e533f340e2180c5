"""Your own data: which estimator to take for two samples, how good its map is, and the map to take home.

`scaled` puts the coordinates on one scale and back, `scores` judges a map on points that were held out, `choose` fits,
ranks and refits.
"""
