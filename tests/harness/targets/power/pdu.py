"""An SNMP v2c agent with one integer (RFC 1905, RFC 3416; BER as in X.690), enough for snmpget and snmpset."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

INTEGER, OCTETS, OID, SEQUENCE = 0x02, 0x04, 0x06, 0x30
GET, RESPONSE, SET = 0xA0, 0xA2, 0xA3


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + content


def parts(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        tag, size, at = data[0], data[1], 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
        found.append((tag, data[at : at + size]))
        data = data[at + size :]
    return found


def oid_bytes(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = bytearray([40 * first + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return bytes(out)


class Pdu:
    """One outlet: reading gives `value`, writing sets it. Other communities get no answer, as in the field."""

    def __init__(self, oid: str, *, community: str) -> None:
        self.value = 1
        self.written: list[int] = []
        self._oid = oid_bytes(oid)
        self._community = community.encode()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join(60)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(2048)
            if not data:
                return
            version, (_, community), (kind, pdu) = parts(parts(data)[0][1])
            if community != self._community:
                continue
            request, _, _, (_, bindings) = parts(pdu)
            (_, name), (_, given) = parts(parts(bindings)[0][1])
            known = name == self._oid
            if known and kind == SET:
                self.value = int.from_bytes(given, "big", signed=True)
                self.written.append(self.value)
            value = tlv(INTEGER, bytes([self.value])) if known else b"\x80\x00"  # noSuchObject
            answer = tlv(SEQUENCE, tlv(SEQUENCE, tlv(OID, name) + value))
            zero = tlv(INTEGER, b"\x00")
            body = tlv(RESPONSE, tlv(*request) + zero + zero + answer)
            self._socket.sendto(tlv(SEQUENCE, tlv(*version) + tlv(OCTETS, community) + body), sender)
