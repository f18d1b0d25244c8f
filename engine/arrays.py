"""NumPy arrays in messages: dtype code, rank, shape and raw bytes; nothing that could run when it is read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_DTYPES = (np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.uint8))
"""Their places are the codes; new ones are added at the end."""


def encode_array(array: Any) -> bytes:
    """Encodes an array as dtype code, rank, shape and raw bytes (msgspec's ``enc_hook``).

    Raises ``TypeError`` for any other type.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"cannot send {type(array).__name__}")
    head = struct.pack(f"<BB{array.ndim}I", _DTYPES.index(array.dtype), array.ndim, *array.shape)
    return head + array.tobytes()


def decode_array(type_: type, data: Any) -> np.ndarray:
    """Decodes an array, as a read-only view of the message (msgspec's ``dec_hook``).

    Raises ``TypeError`` for any other type.
    """
    if type_ is not np.ndarray:
        raise TypeError(f"cannot receive {type_.__name__}")
    code, ndim = struct.unpack_from("<BB", data)
    shape = struct.unpack_from(f"<{ndim}I", data, 2)
    return np.frombuffer(data, _DTYPES[code], offset=2 + 4 * ndim).reshape(shape)
