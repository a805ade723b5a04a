"""Checking Ed25519 signatures (RFC 8032, section 5.1.7), without a library: the agent's dependencies have none.

Only checks, and only public values: nothing here needs to take the same time for every input. One check takes some ten
milliseconds.
"""

from __future__ import annotations

import hashlib

#: A point in extended homogeneous coordinates (X, Y, Z, T), with x = X/Z, y = Y/Z, x*y = T/Z.
_Point = tuple[int, int, int, int]

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493  # order of the base point
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_NEUTRAL: _Point = (0, 1, 1, 0)
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is one of `message` by the owner of `public`.

    Args:
        public: 32 bytes.
        message: of any length.
        signature: 64 bytes; its second half must be below the group's order, or one message had many signatures.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key, commitment = _decode(public), _decode(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= _L or _is_small(key):
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(digest, "little") % _L
    return _same(_times(scalar, _BASE), _add(commitment, _times(challenge, key)))


def _decode(data: bytes) -> _Point | None:
    """Section 5.1.3; None for what is no point, or not its one encoding."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        if v * x * x % _P != -u % _P:
            return None
        x = x * _ROOT_OF_MINUS_ONE % _P
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _add(one: _Point, other: _Point) -> _Point:
    """Section 5.1.4; complete, so that it doubles too."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(scalar: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _same(one: _Point, other: _Point) -> bool:
    return (one[0] * other[2] - other[0] * one[2]) % _P == 0 and (one[1] * other[2] - other[1] * one[2]) % _P == 0


def _is_small(point: _Point) -> bool:
    """One of the eight points for which a signature would fit many messages: no honest key is one."""
    return _same(_times(8, point), _NEUTRAL)


def _base() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    if point is None:
        raise ArithmeticError("the base point of Ed25519 is a point")
    return point


_BASE = _base()
