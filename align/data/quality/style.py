"""How the report looks: light or dark as its reader's system is, and on paper."""

STYLE = """
:root { --ink: #1c2330; --soft: #5b6678; --line: #e1e5ec; --back: #f6f7f9; --card: #fff; --info: #3b6fb6;
  --warning: #a86200; --error: #b3261e; --sound: #2c7a4b; --s0: #3b6fb6; --s1: #d0843c; --s2: #5a9a6e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa5b8; --line: #323a48; --back: #14181f;
  --card: #1c222c; --info: #7ba7e0; --warning: #e0a04a; --error: #ef7d75; --sound: #6fbf8d; --s0: #7ba7e0;
  --s1: #e0a04a; --s2: #7fc095; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--back);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
.small { font-size: .85rem; } section + section { margin-top: 4rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1.1rem; }
.badge { display: inline-block; border: 1px solid; border-radius: 99px; padding: 0 .6rem; font-size: .78rem;
  font-weight: 600; vertical-align: 2px; } .info { color: var(--info); } .warning { color: var(--warning); }
.error { color: var(--error); } .sound { color: var(--sound); }
.tiles { display: flex; flex-wrap: wrap; margin: 1.1rem 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; } .tiles div { flex: 1; padding: .7rem 1.1rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; white-space: nowrap; }
.chip { display: inline-block; border-radius: 6px; padding: 0 .55rem; margin: 0 .15rem; background: var(--card);
  border: 1px solid var(--sound); color: var(--sound); font-weight: 600; font-size: .85rem; }
.chip.off { color: var(--soft); border-color: var(--line); text-decoration: line-through; font-weight: 400; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0;
  border-top: 1px solid var(--line); vertical-align: top; } tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); width: 15rem; } td.number { text-align: right; width: 5rem;
  font-variant-numeric: tabular-nums; }
code, pre, .quote { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; margin: .4rem 0 .2rem; padding: .5rem .7rem; background: var(--back);
  border-radius: 6px; }
.finding { border-left: 4px solid currentColor; margin-bottom: .6rem; } .finding > * { color: var(--ink); }
.finding h3 { font-size: 1rem; margin: 0; } .finding .head { display: flex; gap: .7rem; align-items: baseline; }
.finding .number { margin-left: auto; font-variant-numeric: tabular-nums; white-space: nowrap; }
.finding p.soft { color: var(--soft); } .share { height: 3px; border-radius: 2px; background: var(--line);
  margin: .3rem 0 .4rem; } .share i { display: block; height: 100%; border-radius: 2px; background: currentColor; }
.finding.error .share i { color: var(--error); } .finding.warning .share i { color: var(--warning); }
.finding.info .share i { color: var(--info); } .repair { border-style: dashed; }
details summary { cursor: pointer; color: var(--soft); overflow-wrap: anywhere; }
.quote { color: var(--soft); margin: .15rem 0 .15rem 1rem; }
.sample { margin-bottom: .5rem; } .sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; }
.sides p { white-space: pre-wrap; overflow-wrap: anywhere; }
.sides .prompt, .sides .text, .sides .tools { grid-column: 1 / -1; }
.sides b { color: var(--soft); font-size: .8rem; } .sides .chosen b, .sides .good b { color: var(--sound); }
.sides .rejected b, .sides .bad b { color: var(--error); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.mark { stroke: var(--error); stroke-dasharray: 4 3; }
.legend span { margin-right: 1rem; } .legend i { display: inline-block; width: .7rem; height: .7rem;
  border-radius: 2px; margin-right: .35rem; }
.bar { display: flex; height: .9rem; border-radius: 4px; overflow: hidden; background: var(--line); margin: .5rem 0; }
.bar div { border-right: 1px solid var(--card); }
@media (max-width: 34rem) { .tiles span { white-space: normal; }
  .grid, .sides { grid-template-columns: 1fr; } th { width: 9rem; }
  .finding .head { flex-wrap: wrap; } .finding .number { margin-left: 0; width: 100%; } }
@media print { body { max-width: none; background: none; } .card, .tiles { break-inside: avoid; } }
"""
