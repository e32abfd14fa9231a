"""The look of the report page, inlined so that the page is one file."""

STYLE = """
:root { --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; --blue: #2563eb; --page: #f8fafc; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; padding-bottom: 8px; }
.kicker { margin: 0; color: var(--blue); font-weight: 600; letter-spacing: .04em; font-size: 13px; }
h1 { margin: 2px 0 4px; font-size: 32px; line-height: 1.2; overflow-wrap: anywhere; }
.summary { margin: 0; color: var(--soft); }
.note { margin: 12px 0 0; padding: 10px 14px; border-left: 4px solid #f59e0b; background: #fffbeb;
  border-radius: 4px; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin-top: 20px; }
.card { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  display: flex; flex-direction: column; }
.card:first-child { border-color: var(--blue); }
.name { color: var(--soft); font-size: 13px; font-weight: 600; }
.value { font-size: 28px; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.25; }
.gap { color: var(--soft); font-size: 14px; font-variant-numeric: tabular-nums; }
.gap.up { color: #15803d; }
.gap.down { color: #b91c1c; }
.caption { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
section { background: white; border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 22px 22px; margin-top: 22px; }
h2 { margin: 0 0 12px; font-size: 19px; }
h3 { margin: 8px 0; font-size: 15px; }
.grid, .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; align-items: start; }
.grid > *, .pair > * { min-width: 0; }
.narrow { max-width: 640px; margin: 0 auto 12px; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-top: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 14px; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
tr > th:first-child { text-align: left; }
tbody th { font-weight: 500; white-space: normal; overflow-wrap: anywhere; min-width: 150px; }
tbody tr:last-child > * { border-bottom: 0; }
th small { display: block; color: var(--soft); font-weight: 400; white-space: normal; }
summary { cursor: pointer; color: var(--blue); margin-top: 8px; }
.legend { margin: 0 0 12px; color: var(--soft); font-size: 13px; }
.legend span { border: 2px solid; border-radius: 3px; padding: 1px 7px; margin-right: 8px;
  display: inline-block; margin-bottom: 4px; color: var(--ink); }
.legend .truth { border-color: #16a34a; }
.legend .dashed { border-style: dashed; }
.legend .hit { border-color: #2563eb; }
.legend .error { border-color: #dc2626; }
footer { color: var(--soft); font-size: 13px; padding-top: 20px; padding-bottom: 40px; }
@media (max-width: 720px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 24px; }
  h1 { font-size: 26px; }
  .cards { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  .card { padding: 10px; }
  .value { font-size: 23px; }
  .grid, .pair { grid-template-columns: 1fr; }
  section { padding: 14px; }
  table { font-size: 12px; }
  thead th { font-size: 11.5px; }
  th, td { padding: 6px 3px; }
  tbody th { min-width: 76px; }
}
@media print { body { background: white; } section { break-inside: avoid; } }
"""
