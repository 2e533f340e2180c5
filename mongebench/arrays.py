from mongebench.core.arrays import *
