"""Reads a GGUF file: metadata and dequantized tensors. It knows nothing about models.

The header is parsed here because the `gguf` package's own reader takes ten seconds over a vocabulary of 262,144
tokens; the arithmetic of the quantizations is the package's.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CHUNK_ROWS = 4096  # dequantized at a time: bounds the temporaries, and a group this large is no loop in Python


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlace:
    """One tensor of the file."""

    shape: tuple[int, ...]  # rows first, as torch has it
    quantization: int  # ggml's number of the type
    offset: int  # bytes from the start of the data


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFile:
    """A parsed GGUF file. `data` holds the tensors' bytes."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]
    data: memoryview

    def rows(self, name: str) -> Iterator[NDArray[np.float32]]:
        """The tensor dequantized, float32, in chunks of up to 4,096 rows along its first dimension."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        place = self.tensors[name]
        kind = GGMLQuantizationType(place.quantization)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = math.prod(place.shape) // block * block_bytes
        packed = np.frombuffer(self.data, np.uint8, size, place.offset).reshape(place.shape[0], -1)
        for start in range(0, len(packed), _CHUNK_ROWS):
            chunk = packed[start : start + _CHUNK_ROWS]
            # blocks lie end to end, so rows can be taken together: the package loops over groups of 16 rows
            wide = chunk.reshape(16, -1) if len(chunk) % 16 == 0 else chunk
            values: NDArray[np.float32] = dequantize(wide, kind).reshape(len(chunk), *place.shape[1:])
            yield values


def parse(content: bytes) -> GgufFile:
    """Parse a whole GGUF file (version 2 or 3, little endian).

    Raises:
        ValueError: not such a file.
    """
    if content[:4] != b"GGUF":
        raise ValueError("not a GGUF file")
    version, num_tensors, num_keys = struct.unpack_from("<IQQ", content, 4)
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version}; 2 and 3 can be read")
    metadata: dict[str, Any] = {}
    position = 24
    for _ in range(num_keys):
        key, position = _string(content, position)
        (kind,) = struct.unpack_from("<I", content, position)
        metadata[key], position = _value(content, position + 4, kind)
    tensors: dict[str, TensorPlace] = {}
    for _ in range(num_tensors):
        name, position = _string(content, position)
        (dimensions,) = struct.unpack_from("<I", content, position)
        *shape, quantization, offset = struct.unpack_from(f"<{dimensions}QIQ", content, position + 4)
        position += 4 + 8 * dimensions + 12
        tensors[name] = TensorPlace(shape=tuple(reversed(shape)), quantization=quantization, offset=offset)
    alignment = metadata.get("general.alignment", 32)
    start = -(-position // alignment) * alignment
    return GgufFile(metadata=metadata, tensors=tensors, data=memoryview(content)[start:])


def _value(content: bytes, position: int, kind: int) -> tuple[Any, int]:
    if kind in _SCALARS:
        code = "<" + _SCALARS[kind]
        return struct.unpack_from(code, content, position)[0], position + struct.calcsize(code)
    if kind == _STRING:
        return _string(content, position)
    if kind != _ARRAY:
        raise ValueError(f"GGUF value of unknown type {kind}")
    inner, count = struct.unpack_from("<IQ", content, position)
    position += 12
    if inner in _SCALARS:
        code = f"<{count}{_SCALARS[inner]}"
        return list(struct.unpack_from(code, content, position)), position + struct.calcsize(code)
    values = []
    for _ in range(count):
        value, position = _value(content, position, inner)
        values.append(value)
    return values, position


def _string(content: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", content, position)
    end = position + 8 + length
    return content[position + 8 : end].decode("utf-8"), end
