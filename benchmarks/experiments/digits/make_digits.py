"""Writes threes.csv and eights.csv: real data that is small enough to be kept with the experiments.

Images of the handwritten digits 3 and 8 (8 x 8 pixels, 183 and 174 of them, from the UCI set "Optical Recognition of
Handwritten Digits" bundled with scikit-learn), projected on the eight leading principal components of both classes
together: two clouds of one space, of different shape, without a known map. Run `python make_digits.py` in any folder;
the files land beside this script.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

COMPONENTS = 8


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, (3, 8))
    points = PCA(COMPONENTS, svd_solver="full").fit_transform(images[chosen])
    # The sign of a component is arbitrary and differs between libraries: make its largest entry positive.
    largest = np.abs(points).argmax(axis=0)
    points *= np.sign(points[largest, np.arange(COMPONENTS)])
    header = ",".join(f"component_{i}" for i in range(1, COMPONENTS + 1))
    for digit, name in ((3, "threes"), (8, "eights")):
        path = Path(__file__).with_name(f"{name}.csv")
        np.savetxt(path, points[labels[chosen] == digit], fmt="%.6g", delimiter=",", header=header, comments="")


if __name__ == "__main__":
    main()
