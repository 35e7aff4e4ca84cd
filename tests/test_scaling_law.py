"""What `scripts/scaling_law.py` reads from a compiled program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from scaling_law import traffic

PROGRAM = """
%sum (a: f64[], b: f64[]) -> f64[] {
  ROOT %c = f64[] add(%a, %b)
}
%below (x: f64[5]) -> f64[5] {
  ROOT %r = f64[5]{0} all-reduce(%x), replica_groups={}, to_apply=%sum
}
%round (s: (f64[5], f32[4])) -> (f64[5], f32[4]) {
  %y = f64[5]{0} call(%x), to_apply=%below
  ROOT %both = (f64[5]{0}, f32[4]{0}) all-reduce(%y, %z), to_apply=%sum
}
ENTRY %main (p: f64[8]) -> f64[8] {
  %w = (f64[5], f32[4]) while(%t), condition=%test, body=%round
  ROOT %g = f64[2,8]{1,0} all-gather(%p), dimensions={0}
}
"""


def test_exchanges_are_told_by_loops_and_kinds():
    found = traffic(PROGRAM)
    assert (found.often, found.often_bytes) == (2, 5 * 8 + 5 * 8 + 4 * 4)
    assert (found.once, found.once_bytes) == (1, 16 * 8)
    assert (found.largest, found.gathered) == (16, 16)


def test_a_program_of_one_device_exchanges_nothing():
    assert traffic("ENTRY %main (p: f64[8]) -> f64[8] {\n  ROOT %q = f64[8]{0} negate(%p)\n}") == (0, 0, 0, 0, 0, 0)
