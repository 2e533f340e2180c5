from mongebench.core.errors import *
