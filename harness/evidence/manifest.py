"""The list of everything in a bundle, which is what gets signed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from harness.yamlfile import FileModel

FORMAT = "quantrig-bundle"
#: Raised when an entry changes its meaning. An entry of a kind that a reader does not know is refused by it.
VERSION = 1
MANIFEST, SIGNATURE, PUBLIC_KEY = "manifest.json", "manifest.sig", "public-key.pem"
#: A target measured with several settings is called `rpi [batch 4]`.
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_./-]|(?<=\.)\.|(?<![^/])[.-]")
POLICY, PAGE, ENVIRONMENT = "policy.yaml", "decision.html", "environment.json"


class Listed(FileModel):
    """One entry: what its content must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class ListedRun(FileModel):
    """One run: its folder in the bundle is `runs/<run_id>/`."""

    run_id: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    job: str
    position: int = Field(ge=0)  # of its job in the policy
    absent: dict[str, str] = Field(default_factory=dict)  # what is not in the bundle, and why


class Manifest(FileModel):
    """The content of manifest.json."""

    format: str
    version: int
    policy: str
    created: str
    quantrig: str
    verdict: str
    signed_by: str  # fingerprint of the key
    runs: list[ListedRun] = Field(max_length=1000)
    entries: dict[str, Listed]


@dataclass(frozen=True, slots=True)
class RunPart:
    """Where a run's files are in a bundle."""

    run_id: str

    def name(self, relative: str) -> str:
        """The entry of a file of the run's folder; what entries may not be called is written as `+` and its code."""
        plain = _NOT_PLAIN.sub(lambda match: "".join(f"+{ord(letter):04x}" for letter in match[0]), relative)
        return f"runs/{self.run_id}/{plain}"


def dump_manifest(manifest: Manifest) -> bytes:
    """The file's content: JSON in ASCII, keys sorted: the same manifest always gives the same bytes."""
    return dump_json(manifest.model_dump(mode="json"))


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Plain data as the bundle holds it."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def load_manifest(content: bytes) -> Manifest:
    """Read it back.

    Raises:
        ValueError: no manifest, or one of a later version; one line.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        msg = "it is no JSON"
        raise ValueError(msg) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        msg = "it is not that of a quantrig bundle"
        raise ValueError(msg)
    if data.get("version") != VERSION:
        msg = f"its version is {data.get('version')!r}, this quantrig reads {VERSION}: update quantrig"
        raise ValueError(msg)
    try:
        return TypeAdapter(Manifest).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{where}: {first['msg']}"
        raise ValueError(msg) from None
