"""The style sheet of a report: light, dark and paper; no font or picture from elsewhere."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark;
  --page: #f5f6f8; --paper: #ffffff; --ink: #1a2129; --soft: #5b6672; --line: #dde2e8; --accent: #0b5cad;
  --good: #0072b2; --bad: #d55e00; --third: #009e73; --fourth: #a05a8c;
  --ok: #1a8f4c; --unsure: #c98a00; --ng: #c8321f; --warn: #fff4d6; --warn-ink: #6b4a00; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161b; --paper: #1b2129; --ink: #e7ebf0; --soft: #9aa6b2; --line: #323b46; --accent: #7db8f2;
  --good: #56b4e9; --bad: #f08a3c; --third: #3ac49a; --fourth: #cc8fb9;
  --ok: #37b56e; --unsure: #e0a92e; --ng: #ef6a56; --warn: #3a3014; --warn-ink: #f1d48a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
header .over { color: var(--soft); text-transform: uppercase; letter-spacing: .08em; font-size: 12px; margin: 0; }
h1 { font-size: 30px; line-height: 1.2; margin: 2px 0 10px; overflow-wrap: anywhere; }
header .verdict-line { font-size: 18px; line-height: 1.5; max-width: 62em; margin: 0 0 18px; }
h2 { font-size: 20px; margin: 0 0 6px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
small { font-weight: 400; color: var(--soft); font-size: 13px; }
h3 small { margin-left: 10px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 18px; }
.note { color: var(--soft); margin: 4px 0 10px; font-size: 14px; max-width: 75em; }
.missing { background: var(--warn); color: var(--warn-ink); border-radius: 6px; padding: 8px 12px; margin: 8px 0; }
code { font: 13px/1.4 ui-monospace, "Cascadia Code", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-top: 4px solid var(--accent);
  border-radius: 8px; padding: 12px 14px; }
.tile.ok { border-top-color: var(--ok); } .tile.ng { border-top-color: var(--ng); }
.tile.unsure, .tile.none { border-top-color: var(--unsure); }
.tile .what { color: var(--soft); font-size: 13px; }
.tile .value { font-size: 26px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile.none .value { font-size: 18px; color: var(--soft); }
.tile .more { font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
.groups { display: grid; grid-template-columns: 1fr 1fr; column-gap: 14px; grid-auto-flow: dense; }
.group { grid-column: span 2; min-width: 0; } .group.one { grid-column: span 1; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); gap: 14px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px; break-inside: avoid; min-width: 0; }
.panes { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; align-items: start; }
.panes img { width: 100%; height: auto; display: block; border-radius: 3px; }
.card p { margin: 6px 0 0; }
.line { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; }
.line strong, .facts { overflow-wrap: anywhere; min-width: 0; }
.score { margin-left: auto; font-variant-numeric: tabular-nums; }
.facts { color: var(--soft); font-size: 13px; }
.verdict { color: #fff; border-radius: 4px; padding: 1px 8px; font-size: 12.5px; font-weight: 650;
  white-space: nowrap; }
.verdict.ok { background: #17803f; } .verdict.unsure { background: #8f6200; } .verdict.ng { background: #b52a19; }
.scale { display: flex; gap: 8px; align-items: center; font-size: 13px; color: var(--soft); margin: 6px 0 0; }
.scale img { border-radius: 2px; width: 200px; height: 12px; }
.gauge { width: 100%; height: 12px; display: block; margin-top: 6px; }
.gauge .tick { fill: var(--ink); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 22px;
  margin: 8px 0 14px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; }
.legend { display: flex; gap: 16px; flex-wrap: wrap; font-size: 13px; color: var(--soft); }
.legend span { display: inline-flex; gap: 6px; align-items: center; }
.chart { width: 100%; height: auto; display: block; }
.chart text { fill: var(--soft); font-size: 12px; }
.chart .name { fill: var(--ink); font-size: 13px; }
.chart .band { opacity: .11; } .chart .band-name { font-weight: 650; }
.chart .grid { stroke: var(--line); } .chart .axis { stroke: var(--soft); }
.chart .limit { stroke: var(--ink); stroke-dasharray: 5 3; }
.chart .chance { stroke: var(--soft); stroke-dasharray: 2 4; }
.chart .curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.chart .mark { fill: var(--paper); stroke: var(--ink); stroke-width: 2.5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td { overflow-wrap: break-word; } td:not(:first-child) { overflow-wrap: anywhere; }
th.n, td.n { text-align: right; padding: 5px 8px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.place { margin: -5px -8px; padding: 5px 8px; } .place small { display: block; }
.key { color: var(--soft); }
@media (max-width: 1000px) { .group.one { grid-column: span 2; } }
@media (max-width: 560px) { .cards, .two { grid-template-columns: 1fr; } section { padding: 14px; } }
@media print {
  :root { --page: #fff; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } section { border: 0; padding: 10px 0; }
  h2, h3 { break-after: avoid; } figure, tr, .tile { break-inside: avoid; }
  .cards { grid-template-columns: 1fr 1fr; } }
"""
