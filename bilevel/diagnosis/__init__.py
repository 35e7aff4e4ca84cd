"""What went wrong in a run, from its record alone: causes with their evidence, and the settings that cure them."""

from bilevel.diagnosis.cures import CAUSES
from bilevel.diagnosis.record import Finding, Record
from bilevel.diagnosis.rules import SOLVES, diagnose, statuses

__all__ = ["CAUSES", "SOLVES", "Finding", "Record", "diagnose", "statuses"]
