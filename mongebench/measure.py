from mongebench.core.measure import *
