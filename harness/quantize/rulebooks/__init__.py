"""One rule book per environment: `rule_book("cpu")` and its siblings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from harness.errors import UserError
from harness.quantize.rulebooks import cpu, fpga, gpu, host
from harness.quantize.rulebooks.rules import RuleBook

RULE_BOOKS: Mapping[str, RuleBook] = {
    rules.environment: rules for rules in (gpu.RULES, cpu.RULES, fpga.RULES, host.RULES)
}


def rule_book(environment: str) -> RuleBook:
    """The rules of an environment.

    Raises:
        UserError: there is no environment of that name.
    """
    if environment not in RULE_BOOKS:
        near = difflib.get_close_matches(environment, RULE_BOOKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(RULE_BOOKS)}"
        msg = f"environment {environment!r} is unknown; {hint}"
        raise UserError(msg)
    return RULE_BOOKS[environment]
