"""The diagnosis of a run from its record alone: causes with their evidence, and the settings that cure them."""

from bilevel.verification.cures import CAUSES
from bilevel.verification.record import Finding, Record
from bilevel.verification.rules import SOLVES, diagnose, statuses

__all__ = ["CAUSES", "SOLVES", "Finding", "Record", "diagnose", "statuses"]
