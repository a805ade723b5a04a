"""A run against an earlier one: which one a name means, what is kept for it, and how every figure stands beside it.

keep(store, record, run_folder, root, session_id)     # every run of a suite, so that it can be a baseline
named = Asked("main")                                 # or "last", a run's id, a pytest run's id
against = compare_with(store, named, record, target, run_folder, root, session_id)
against.regressions, against.unclear
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UserError
from harness.history.environment import OF_MACHINE, Difference, differences, environment
from harness.history.series import followed
from harness.judge.baseline import Change, Standing, change_of, paired_change
from harness.judge.samples import KeptSamples, read_samples
from harness.judge.statistics import Interval
from harness.record.figure import Figure, Network, Source
from harness.record.networks import SamplesRecord
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.store import Store
from harness.store.baselines import Baselines, Candidate
from harness.store.nights import Nights
from harness.wholefile import write_whole

#: The newest good run of the same job on the same target.
LAST = "last"
#: A pytest run is named by at least so much of its id, so that no branch is taken for one.
_SESSION_DIGITS = 8
#: Folder beside the runs in which their samples outlive them.
_KEPT = "kept"
#: Not looked at unless named: without results sample by sample its interval is that of two independent runs.
_NOT_FOLLOWED = ("top1_agreement",)
#: What a board decides; accuracy and weights are the network's.
_OF_MACHINE = ("ms", "s", "1/s", "mJ", "W", "percent", "°C")
_OF_MACHINE_METRICS = ("speedup", "peak_memory_bytes", "energy_ratio", "energy_net_ratio")


@dataclass(frozen=True, slots=True)
class AgainstBaseline:
    """One target of a run beside the baseline's.

    Args:
        target: which.
        asked: the baseline's name, as given; "" where none was asked for.
        baseline: the run it means; None where there is none.
        why: one line, where there is none.
        changes: of every figure that both were to have.
        surroundings: what differs in what they depended on.
    """

    target: str
    asked: str
    baseline: Candidate | None = None
    why: str = ""
    changes: tuple[Change, ...] = ()
    surroundings: tuple[Difference, ...] = ()

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Figures that are worse for certain, by more than may be lost."""
        return self.of(Standing.WORSE)

    @property
    def improvements(self) -> tuple[Change, ...]:
        """Figures that are better for certain."""
        return self.of(Standing.BETTER)

    @property
    def unclear(self) -> tuple[Change, ...]:
        """Figures of which a loss that matters can be neither shown nor excluded."""
        return self.of(Standing.UNCLEAR)

    def of(self, standing: Standing) -> tuple[Change, ...]:
        """Figures that stand so."""
        return tuple(change for change in self.changes if change.standing is standing)


def compare_with(
    store: Store,
    asked: str,
    record: RunRecord,
    target: str,
    *,
    root: Path,
    session: str,
    metrics: Collection[str] | None = None,
    within: Mapping[str, float] | None = None,
    less_is_better: Collection[str] = (),
) -> AgainstBaseline:
    """One target of a run against the run that a name means.

    Args:
        store: where runs are kept.
        asked: "last", a branch, the id of a run or of a pytest run.
        record: this run; its samples were kept (`keep`).
        target: which one.
        root: folder of the runs.
        session: this pytest run: its own runs are no baselines.
        metrics: only these; None: those that nightly follows, of Quantized and of both.
        within: metric → what may be lost of it, in place of `harness.judge.baseline.tolerance_of`.
        less_is_better: own metrics that fall as a network gets better.

    Raises:
        UserError: a metric that neither run has.
    """
    found, why = find_baseline(store, asked, record.job_name, target, session)
    if found is None:
        return AgainstBaseline(target, asked, None, why)
    nights = Nights(store)
    figures = [one.figure for one in nights.figures([found.run_id]) if one.figure.target == target]
    here = next(one for one in record.targets if one.name == target)
    then = nights.records([found.run_id])[found.run_id, target]
    before = nights.surroundings([found.run_id]).get((found.run_id, target)) or environment(then)
    moved = differences(before, environment(here, record))
    now = {(one.network, one.metric): one for one in record.figures if one.target == target}
    chosen = _chosen(figures, metrics)
    _check_named(target, found, {figure.metric for figure in figures}, [*(metrics or ()), *(within or {})])
    samples = _Pairs(root, found.run_id, then, record.run_id, here)
    changes = []
    for old in chosen:
        paired, note = samples.interval(old)
        change = change_of(
            old, now.get((old.network, old.metric)), paired=paired, tolerance=(within or {}).get(old.metric),
            less=True if old.metric in less_is_better else None, note=note,
        )  # fmt: skip
        changes.append(_whose(change, old, moved))
    return AgainstBaseline(target, asked, found, "", tuple(changes), moved)


def find_baseline(store: Store, asked: str, job: str, target: str, session: str) -> tuple[Candidate | None, str]:
    """(the run that a name means for one job on one target, "") or (None, why there is none).

    Good is a run whose target finished and on which no test failed; on a branch also one without uncommitted changes.
    A run that is named by its id is taken as it is.
    """
    place = f"{job} on {target}"
    spoiled = dirty = 0
    for one in Baselines(store).candidates(job, target):
        if one.session == session:
            continue
        if one.run_id == asked or _is_session(asked, one):
            return one, ""
        if asked != LAST and (one.revision is None or one.revision.branch != asked):
            continue
        if one.failed:
            spoiled += 1
        elif asked != LAST and one.revision is not None and one.revision.dirty:
            dirty += 1
        else:
            return one, ""
    passed_over = [f"{spoiled} that tests failed on"] if spoiled else []
    passed_over += [f"{dirty} with uncommitted changes"] if dirty else []
    others = f" (passed over: {', '.join(passed_over)})" if passed_over else ""
    where = "" if asked == LAST else f" under '{asked}'"
    return None, f"no good run of {place}{where}{others}"


def check_asked(store: Store, asked: str, *, known_branch: bool) -> None:
    """Refuse a name that can mean nothing, before anything runs.

    Args:
        store: where runs are kept.
        asked: the name.
        known_branch: whether git knows a branch of that name, on which nothing may have run yet.

    Raises:
        UserError: no run, no pytest run and no branch is called so.
    """
    if asked == LAST or known_branch:
        return
    branches = set()
    for one in Baselines(store).candidates():
        if one.run_id == asked or _is_session(asked, one):
            return
        if one.revision is not None and one.revision.branch:
            branches.add(one.revision.branch)
    if asked not in branches:
        known = f"branches with runs: {', '.join(sorted(branches))}" if branches else "nothing is recorded yet"
        raise UserError(f"no baseline '{asked}': write {LAST}, a run's id or a branch; {known}")


def keep(store: Store, record: RunRecord, folder: Path, *, root: Path, session: str) -> None:
    """Keep of a run what a later one is compared with: its surroundings, its samples, whose it is.

    Args:
        store: where it is.
        record: of the run.
        folder: of the run, which the next run of the same job replaces.
        root: of all runs.
        session: the pytest run that asked for it.

    Raises:
        UserError: the disk is full.
    """
    for target in record.targets:
        Nights(store).save_surroundings(record.run_id, target.name, environment(target, record))
        for kept in target.samples:
            _copy(folder / kept.path, _kept(root, record.run_id, kept))
    Baselines(store).belongs_to(record.run_id, session)


def _copy(source: Path, place: Path) -> None:
    if place.exists() or not source.is_file():
        return
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); run the job again") from error
    write_whole(place, content, "free some space")  # two workers of one session may keep the same run


def _kept(root: Path, run_id: str, samples: SamplesRecord) -> Path:
    return root / _KEPT / run_id / Path(samples.path).name


def _is_session(asked: str, one: Candidate) -> bool:
    return len(asked) >= _SESSION_DIGITS and one.session.startswith(asked)


def _chosen(figures: Iterable[Figure], metrics: Collection[str] | None) -> list[Figure]:
    if metrics is not None:
        return [figure for figure in figures if figure.metric in metrics and figure.network is not Network.FLOAT]
    return [
        figure
        for figure in figures
        if figure.network is not Network.FLOAT and figure.metric not in _NOT_FOLLOWED and followed(figure)
    ]


def _check_named(target: str, found: Candidate, known: set[str], named: Iterable[str]) -> None:
    for metric in named:
        if metric not in known:
            near = difflib.get_close_matches(metric, sorted(known), 1, 0.5)
            remedy = f"did you mean {near[0]}?" if near else "comparison.csv lists them"
            raise UserError(f"{target}: the baseline (run {found.run_id}) has no {metric}; {remedy}")


def _whose(change: Change, old: Figure, moved: Iterable[Difference]) -> Change:
    """A time that got worse on another machine says nothing about the network."""
    theirs = [one for one in moved if one.cause in OF_MACHINE]
    of_machine = old.unit in _OF_MACHINE or old.metric in _OF_MACHINE_METRICS
    if change.standing is not Standing.WORSE or not theirs or not of_machine or old.source is not Source.MEASURED:
        return change
    return replace(change, standing=Standing.UNCLEAR, note=f"the machine changed: {', '.join(map(str, theirs))}")


class _Pairs:
    """Results sample by sample of both runs, read when the first metric asks for them."""

    def __init__(self, root: Path, old_run: str, old: TargetRecord, new_run: str, new: TargetRecord) -> None:
        self._of = ((root, old_run, old), (root, new_run, new))
        self._read: dict[Network, tuple[KeptSamples, KeptSamples] | str] = {}

    def interval(self, figure: Figure) -> tuple[Interval | None, str]:
        """Of a figure's change on the same samples; (None, why) without one, (None, "") without samples."""
        known = {name for _, _, record in self._of for kept in record.samples for name in kept.metrics}
        if figure.metric not in known or figure.network is Network.RATIO:
            return None, ""
        if figure.network not in self._read:
            self._read[figure.network] = self._both(figure.network)
        read = self._read[figure.network]
        if isinstance(read, str):
            return None, f"{read}: the two runs are taken for independent"
        interval, note = paired_change(figure.metric, *read)
        return interval, note if interval is not None else f"{note}: the two runs are taken for independent"

    def _both(self, network: Network) -> tuple[KeptSamples, KeptSamples] | str:
        found = []
        for whose, (root, run_id, record) in zip(("the baseline's", "this run's"), self._of, strict=True):
            samples = next((one for one in record.samples if one.network is network), None)
            try:
                content = b"" if samples is None else _kept(root, run_id, samples).read_bytes()
            except OSError:
                return f"{whose} results sample by sample are not here"
            if samples is None or hashlib.sha256(content).hexdigest() != samples.digest:
                return f"{whose} results sample by sample are not here"
            found.append(read_samples(content))
        return found[0], found[1]
