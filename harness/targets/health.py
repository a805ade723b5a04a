"""What is known of a board's fitness for a run: plain values, and the sentences that follow from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from harness._version import __version__
from harness.targets.canary import CanaryVerdict
from harness.targets.cross_isa import IsaFinding
from harness.targets.values import BoardInfo, TelemetrySample

if TYPE_CHECKING:
    from harness.targets.target import Target

#: Below this a network of usual size (tens of MB) and its runtime do not fit; the board is reported as short.
LOW_MEMORY_BYTES = 256 << 20
LOW_STORAGE_BYTES = 256 << 20
#: Below this not even the canary's process and file have room for certain: the board is unfit.
NO_MEMORY_BYTES = 64 << 20
NO_STORAGE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What one target answered; None where it did not come that far, or the board does not tell.

    Args:
        reachable: its agent answers and is accepted.
        problem: why it is not fit and what to do, one line; None when it is.
        warnings: what a run will survive, one line each.
        version_skew: that its agent's version is not this host's, in words.
        round_trip_ms: fastest of a few smallest calls.
        canary: what its int8 arithmetic does.
        cross_isa: largest difference from this host by form of the network; None where nothing was compared.
        remarks: what was found beside that, one line each.
        clocks_locked: whether its clocks cannot change now.
        power_mode: of the board's own tool.
        temperature_c: of the hottest zone now, `temperature_zone`.
        settable: settings that a run may ask of it.
    """

    name: str
    board: str
    environment: str
    via: str
    reachable: bool
    problem: str | None
    warnings: tuple[str, ...] = ()
    agent_version: str | None = None
    protocol_version: int | None = None
    version_skew: str | None = None
    emulated: bool | None = None
    runtime: str | None = None
    providers: tuple[str, ...] = ()
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    storage_free_bytes: int | None = None
    round_trip_ms: float | None = None
    canary: str | None = None
    cross_isa: dict[str, float] | None = None
    remarks: tuple[str, ...] = ()
    clocks_locked: bool | None = None
    governor: str | None = None
    power_mode: str | None = None
    temperature_c: float | None = None
    temperature_zone: str | None = None
    settable: tuple[str, ...] | None = None
    seconds: float | None = None

    @property
    def fit(self) -> bool:
        """Whether a run may count on it."""
        return self.problem is None

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON values, for `--json`."""
        return {**asdict(self), "fit": self.fit}


@dataclass
class Known:
    """What is known of a target so far; it grows while the target answers."""

    target: Target
    info: BoardInfo | None = None
    round_trip_ms: float | None = None
    canary: CanaryVerdict | None = None
    findings: tuple[IsaFinding, ...] = ()
    sample: TelemetrySample | None = None
    remarks: tuple[str, ...] = ()

    def health(self, problem: str | None, seconds: float) -> TargetHealth:
        """The verdict.

        Args:
            problem: what went wrong while it was asked; None: all was answered.
            seconds: how long it took.
        """
        target, info = self.target, self.info
        if info is None:
            return TargetHealth(
                target.name, target.board, target.environment, target.via.kind, reachable=False, problem=problem,
                seconds=round(seconds, 1),
            )  # fmt: skip
        usable = next((r for r in info.runtimes if r.version and not r.problem), None)
        details = info.details
        hottest = (
            max(self.sample.temperature_c.items(), key=lambda item: item[1], default=None) if self.sample else None
        )
        locked = details.get("clocks_locked")
        return TargetHealth(
            name=target.name,
            board=target.board,
            environment=target.environment,
            via=target.via.kind,
            reachable=True,
            problem=problem or self._problem(info),
            warnings=tuple(self._warnings(info)),
            agent_version=info.agent_version,
            protocol_version=info.protocol_version,
            version_skew=skew(info),
            emulated=info.emulated,
            runtime=f"{usable.name} {usable.version}" if usable else None,
            providers=usable.providers if usable else (),
            memory_total_bytes=info.memory_total_bytes,
            memory_available_bytes=info.memory_available_bytes,
            storage_free_bytes=info.storage_free_bytes,
            round_trip_ms=self.round_trip_ms,
            canary=None if self.canary is None else self.canary.value,
            cross_isa={one.name: one.worst for one in self.findings} or None,
            remarks=tuple(self._all_remarks()),
            clocks_locked=None if locked is None else locked == "yes",
            governor=details.get("governor"),
            power_mode=details.get("power_mode"),
            temperature_c=None if hottest is None else hottest[1],
            temperature_zone=None if hottest is None else hottest[0],
            settable=settable(info),
            seconds=round(seconds, 1),
        )

    def _problem(self, info: BoardInfo) -> str | None:
        if not any(r.version and not r.problem for r in info.runtimes):
            why = "; ".join(f"{r.name}: {r.problem}" for r in info.runtimes) or "none installed"
            return f"no runtime can be used on the board ({why}); install onnxruntime there"
        if self.canary is CanaryVerdict.DIFFERS:
            return "its integer arithmetic differs from the definition of the operators; update its runtime"
        if failed := [one for one in self.findings if not one.passed]:
            return f"it computes something else than this host ({failed[0].sentence}): update its runtime"
        if info.storage_free_bytes is not None and info.storage_free_bytes < NO_STORAGE_BYTES:
            return f"its storage is full ({info.storage_free_bytes >> 20} MiB free): remove files on the board"
        if info.memory_available_bytes is not None and info.memory_available_bytes < NO_MEMORY_BYTES:
            return f"its memory is full ({info.memory_available_bytes >> 20} MiB free): end other programs on the board"
        wishes = self.target.settings
        if wishes is not None and wishes.required and (lacks := self._not_settable(info)):
            return f"its settings are required and cannot be set: {lacks}"
        return None

    def _not_settable(self, info: BoardInfo) -> str:
        """Why the settings that targets.yaml asks for will not be had; "" when the board has them all."""
        wishes = self.target.settings
        if wishes is None:
            return ""
        can = settable(info)
        if can is None:
            return f"agent {info.agent_version} is too old for `settings`: upgrade it"
        if lacking := [name for name in wishes.asked() if name not in can]:
            return f"the board has no {', '.join(lacking)}: take it out of `settings` in targets.yaml"
        return ""

    def _all_remarks(self) -> list[str]:
        said = list(self.remarks)
        if self.findings:
            said.append(f"against this host: {', '.join(one.sentence for one in self.findings)}")
        return said

    def _warnings(self, info: BoardInfo) -> list[str]:
        said = []
        if different := skew(info):
            said.append(f"{different}: install the same")
        if info.board != self.target.board:
            said.append(
                f"the agent says it is {info.board!r}: correct `board` in targets.yaml or start it with --board"
            )
        if not self.target.runtime and (instead := second_choice(info)):
            said.append(instead)
        if self.canary is CanaryVerdict.SATURATES:
            said.append("int8 products saturate in 16 bits (x86 without VNNI): int8 accuracy is not that of a board")
        if _between(NO_MEMORY_BYTES, info.memory_available_bytes, LOW_MEMORY_BYTES):
            said.append(f"only {(info.memory_available_bytes or 0) >> 20} MiB of memory are free: end other programs")
        if _between(NO_STORAGE_BYTES, info.storage_free_bytes, LOW_STORAGE_BYTES):
            said.append(f"only {(info.storage_free_bytes or 0) >> 20} MiB of storage are free: remove files")
        if (lacks := self._not_settable(info)) and not (self.target.settings and self.target.settings.required):
            said.append(f"a run will not be as asked: {lacks}")
        if left := info.details.get("settings_left"):
            said.append(f"a run before left it changed: {left}")
        if held := info.details.get("settings_held"):
            said.append(f"another run holds its settings now ({held})")
        if self.sample is not None and self.sample.throttled:
            said.append(f"it is throttled now ({', '.join(self.sample.throttled_by) or 'no reason told'})")
        return said


def skew(info: BoardInfo) -> str | None:
    """That an agent is of another version than this host, in words; None when it is of the same."""
    if info.agent_version == __version__:
        return None
    return f"its agent is version {info.agent_version}, this host {__version__}"


def second_choice(info: BoardInfo) -> str | None:
    """That a board's networks run by another runtime than its family's best, in words: a GPU's board on its processor.

    None where the best works, and for a stand-in, whose arithmetic the processor runs.
    """
    usable = next((one for one in info.runtimes if one.version and not one.problem), None)
    if info.emulated or usable is None or usable is info.runtimes[0]:  # an agent names them best first
        return None
    best = info.runtimes[0]
    return f"networks run on {usable.name} there, since {best.name} cannot be used: {best.problem}"


def settable(info: BoardInfo) -> tuple[str, ...] | None:
    """What a run may ask of the board's state; None: its agent is older than such wishes, or only stands in."""
    names = info.details.get("settable")
    if names is None:
        return None
    return () if names == "none" else tuple(name.strip() for name in names.split(","))


def _between(low: int, value: int | None, high: int) -> bool:
    return value is not None and low <= value < high
