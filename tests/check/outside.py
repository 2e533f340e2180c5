"""Estimators that others wrote, each wrapped in a few lines: a plugin file."""

import numpy as np
import ot
from sklearn.kernel_ridge import KernelRidge

import mongebench as mb

SAMPLES = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})


class BarycentricRegression(mb.MapEstimator):
    """scikit-learn's kernel ridge regression on the barycentres of POT's exact coupling."""

    needs = SAMPLES

    def __init__(self, alpha=1.0, gamma=0.1):
        self.alpha = alpha
        self.gamma = gamma

    def fit(self, source, target, *, seed=0, trace=None):
        x, y = source.samples, target.samples
        plan = ot.emd([], [], ot.dist(x, y), numItermax=10**7)
        self.regressor_ = KernelRidge(kernel="rbf", alpha=self.alpha, gamma=self.gamma)
        self.regressor_.fit(x, len(x) * plan @ y - x)
        return self

    def transform(self, X):
        return X + self.regressor_.predict(X)

    def fitted_state(self):
        raise mb.NotSavable("The regressor is an object of scikit-learn's: fit it again.")


class MappingTransport(mb.MapEstimator):
    """POT's joint estimation of a coupling and of a linear map."""

    needs = SAMPLES

    def __init__(self, mu=1.0, eta=1e-3, max_iter=5):
        self.mu = mu
        self.eta = eta
        self.max_iter = max_iter

    def fit(self, source, target, *, seed=0, trace=None):
        self.transport_ = ot.da.MappingTransport(mu=self.mu, eta=self.eta, bias=True, max_iter=self.max_iter)
        self.transport_.fit(Xs=source.samples, Xt=target.samples)
        return self

    def transform(self, X):
        # Asked for exactly its sample, POT answers by the coupling in place of the map; one point more is not that.
        return self.transport_.transform(Xs=np.concatenate([X, X[:1]]))[:-1]

    def fitted_state(self):
        raise mb.NotSavable("What POT learnt is an object of its own: fit it again.")


class LinearTransport(mb.MapEstimator):
    """POT's linear map between Gaussians."""

    needs = SAMPLES
    claims = frozenset({mb.Claim.TRANSLATION_EQUIVARIANT, mb.Claim.GRADIENT_OF_CONVEX})

    def __init__(self, reg=1e-6):
        self.reg = reg

    def fit(self, source, target, *, seed=0, trace=None):
        transport = ot.da.LinearTransport(reg=self.reg).fit(Xs=source.samples, Xt=target.samples)
        self.matrix_, self.shift_ = transport.A_, transport.B_  # arrays, so that the map can be saved
        return self

    def transform(self, X):
        return X @ self.matrix_ + self.shift_
