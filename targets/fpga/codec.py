"""Codes of ternary weights for an FPGA: their bits are what addresses tables of sums.

A digit is a weight plus one, d0 that of the lowest column; a = d0 + 3 d1 + 9 d2, b = d3 + 3 d4.

    2b1t   2 bits for 1 trit    d0
    5b3t   5 bits for 3 trits   a, 0 to 26
    8b5t   8 bits for 5 trits   8 a + b where b < 8, else 224 + 8 (a % 4) + a // 4

A sum of three codes is looked up under a, one of two under b: nothing is decoded.  In "8b5t" the
upper three bits are all ones where b is 8; a // 4, which is below 7, then lies in the lower three,
and a % 4 where it always is: of eight bits three have to be chosen.  These are not the packings of
`mmc.ir.packing`, which are made for byte shuffles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Codec:
    """A code of `bits` bits holds `trits` weights."""

    name: str
    bits: int
    trits: int

    def encode(self, weights: np.ndarray) -> np.ndarray:
        """Weights int8 [..., trits] as codes u8 [...]."""
        d = np.moveaxis(weights + 1, -1, 0).astype(np.uint8)
        if self.trits == 1:
            return d[0]
        a = d[0] + 3 * d[1] + 9 * d[2]
        if self.trits == 3:
            return a
        b = d[3] + 3 * d[4]
        escaped: np.ndarray = 7 << 5 | (a & 3) << 3 | a >> 2
        return np.where(b < 8, a << 3 | b, escaped)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes u8 [...] as weights int8 [..., trits], as the circuit takes them apart."""
        if self.trits == 1:
            return codes[..., None].astype(np.int8) - 1
        a = b = codes
        if self.trits == 5:
            escape = codes >> 5 == 7
            upper, b = np.where(escape, codes & 7, codes >> 5), np.where(escape, 8, codes & 7)
            a = upper << 2 | codes >> 3 & 3
        digits = [a % 3, a // 3 % 3, a // 9, b % 3, b // 3]
        return np.stack(digits[: self.trits], -1).astype(np.int8) - 1


CODECS: Mapping[str, Codec] = {
    codec.name: codec for codec in (Codec("5b3t", 5, 3), Codec("8b5t", 8, 5), Codec("2b1t", 2, 1))
}
