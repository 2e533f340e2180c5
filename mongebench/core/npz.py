"""Arrays of an .npz from elsewhere: nothing is unpickled, and the sizes that it claims are checked before it is read.

A zip of a few megabytes may unpack to terabytes, and the header of an array may claim any shape: NumPy would set aside
what it claims.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput

DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    EOFError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a file raises that is not .npz, is cut short or damaged, is encrypted, or holds pickled objects."""


class TooLarge(InvalidInput):
    """A file that unpacks to more than it may."""


def read_arrays(file: IO[bytes], most: int | None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by their names.

    Parameters
    ----------
    file
        Open for reading, and seekable.
    most
        Bytes that they may have together, unpacked; None for as many as they have.

    Raises
    ------
    TooLarge
        They have more.
    InvalidInput
        One of them has another size than its header says, or this is not such a file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if most is not None and total > most:
                raise TooLarge(f"it unpacks to {total} bytes, more than {most}")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except InvalidInput:
        raise
    except DAMAGED as error:
        raise InvalidInput(f"{type(error).__name__}: {error}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = _HEADERS[version](file)  # the third version is for names of fields, which no array here has
        size, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if dtype.hasobject:
        raise InvalidInput(f"{member.filename} holds pickled objects")
    if min(shape, default=0) < 0 or size != held or not dtype.itemsize:
        raise InvalidInput(f"{member.filename} says that its shape is {shape}, which is not what it holds")
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
