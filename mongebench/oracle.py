from mongebench.core.oracle import *
