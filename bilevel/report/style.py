"""The style of a report: one column on a telephone, two on a desk, light or dark as the browser prefers."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --shade: #f6f8fa;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9; --c6: #6b5b95; --c7: #444; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee; --soft: #9aa4b2; --rule: #3a424d;
  --shade: #1d2229; --c0: #56b4e9; --c1: #ff8c42; --c2: #2fc99b; --c3: #e59cc5; --c4: #f0c04a; --c5: #9fd3f5;
  --c6: #b3a5d9; --c7: #bbb; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 1100px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.45rem; line-height: 1.3; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
p { margin: .4rem 0; }
.soft, figcaption { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1.2rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; margin-bottom: .3rem; }
svg { display: block; width: 100%; max-width: 560px; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
.up { text-anchor: end; } .across { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 1; }
.mark { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.band { fill: var(--c0); opacity: .2; }
.legend { display: block; } .key { margin-right: 1rem; display: inline-block; max-width: 100%; color: var(--ink); }
.key i { display: inline-block; width: 1.1rem; height: 3px; margin-right: .35rem; vertical-align: middle; }
.key svg { display: inline-block; width: 28px; height: 8px; margin-right: .35rem; vertical-align: middle; }
.kband { background: var(--c0); opacity: .3; height: 10px !important; }
.kmark { border-top: 2px dashed var(--soft); }
.table { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; white-space: nowrap; }
tr.best td { font-weight: 700; }
.scale { position: relative; display: block; min-width: 120px; height: 1.2rem; }
.scale i { position: absolute; top: .35rem; width: .6rem; height: .6rem; border-radius: 50%; background: var(--soft);
  transform: translateX(-50%); }
.best .scale i { background: var(--c0); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
pre, code { font: .85rem/1.45 ui-monospace, monospace; background: var(--shade); border-radius: 4px; }
pre { padding: .7rem; overflow-x: auto; } code { padding: .1rem .25rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
""" + "".join(f".c{number} {{ stroke: var(--c{number}); }}\n" for number in range(8))
