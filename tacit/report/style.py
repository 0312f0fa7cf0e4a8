"""How the page looks, light and dark, on a phone and on a desk."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f6f8; --ink: #1a1d21; --soft: #545b64; --rule: #d4d8de; --link: #0b57b0;
  --good: #146c2e; --bad: #b3261e;
  --c0: #0b62c4; --c1: #c2410c; --c2: #0f766e; --c3: #9d174d; --c4: #6d28d9;
  --c5: #4d7c0f; --c6: #a16207; --c7: #0e7490; --c8: #dc2626; --c9: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --panel: #1e2226; --ink: #e8eaed; --soft: #a9b0b8; --rule: #3a4047; --link: #8ab8ff;
    --good: #7ddc97; --bad: #ff9a90;
    --c0: #6cb0ff; --c1: #ff9d5c; --c2: #4fd1c0; --c3: #ff8bc0; --c4: #b8a1ff;
    --c5: #b5d94c; --c6: #ffcb52; --c7: #5ad2ee; --c8: #ff7b7b; --c9: #9aa1aa;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 1200px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 40px 0 12px; padding-bottom: 4px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 24px 0 8px; overflow-wrap: anywhere; }
h4 { font-size: 1rem; margin: 0 0 4px; overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 75ch; overflow-wrap: anywhere; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: 0.875em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.quiet, figcaption { color: var(--soft); font-size: 0.9rem; }
.note { border-left: 3px solid var(--rule); padding: 4px 12px; color: var(--soft); }
.good strong { color: var(--good); }
.bad strong, strong.bad { color: var(--bad); }
nav ul, .legend { list-style: none; margin: 12px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
nav a { display: inline-block; padding: 4px 0; }
.legend li { display: flex; align-items: center; gap: 6px; font-size: 0.9rem; overflow-wrap: anywhere; min-width: 0; }
.legend svg { flex: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; margin: 12px 0; }
.cards div { background: var(--panel); border-radius: 6px; padding: 8px 12px; }
.cards dt { color: var(--soft); font-size: 0.85rem; }
.cards dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 12px 0; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: 0.9rem; margin: 16px 0 -8px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
td, th { max-width: 34em; }
tbody th, td:not(.short) { min-width: 8em; overflow-wrap: anywhere; }
td.short { white-space: nowrap; }
td svg { display: block; }
.name { display: inline-block; min-width: 9em; max-width: 34em; unicode-bidi: isolate; overflow-wrap: anywhere; }
details { margin: 12px 0; }
summary { cursor: pointer; padding: 6px 0; font-weight: 500; }
figure { margin: 0; min-width: 0; }
figcaption { margin-top: 4px; }
.grid-small, .grid-large { display: grid; gap: 28px 24px; margin: 12px 0; }
.grid-small { grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); }
.grid-large { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
.narrow { max-width: 460px; }
.chart, .map { display: block; width: 100%; height: auto; }
.map { background: var(--panel); border-radius: 6px; }
svg text { font-size: 11px; fill: var(--soft); }
svg text.label { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.line { stroke: var(--k); stroke-width: 2; fill: none; stroke-linejoin: round; stroke-linecap: round; }
.point { stroke: var(--k); stroke-width: 5; stroke-linecap: round; stroke-opacity: 0.65; fill: none; }
.dot { fill: var(--k); }
.interval { stroke: var(--k); stroke-width: 3; stroke-linecap: round; }
.frame { fill: none; stroke: var(--k); stroke-width: 1.5; }
.k0 { --k: var(--c0); } .k1 { --k: var(--c1); } .k2 { --k: var(--c2); } .k3 { --k: var(--c3); } .k4 { --k: var(--c4); }
.k5 { --k: var(--c5); } .k6 { --k: var(--c6); } .k7 { --k: var(--c7); } .k8 { --k: var(--c8); } .k9 { --k: var(--c9); }
.strip { list-style: none; margin: 0 0 14px; padding: 0; display: flex; flex-wrap: wrap; gap: 8px; }
.strip li { width: 56px; font-size: 0.8rem; color: var(--soft); text-align: center; }
.strip img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: cover; border-radius: 4px; }
.strip.sounds li { width: 112px; }
.strip.films { align-items: flex-start; }
.strip.films li, .strip li.asks { width: 112px; }
.strip.films img { width: 96px; aspect-ratio: auto; margin: 0 auto; }
.strip q, .views q { display: block; overflow-wrap: anywhere; }
.strip li.asks { text-align: left; font-weight: 400; }
.strip li.asks q { font-size: 0.95rem; margin-bottom: 4px; }
.strip.films li.asks img { width: 112px; }
.strip audio { display: block; width: 100%; height: 36px; margin: 4px 0 2px; }
.strip .query { color: var(--ink); font-weight: 600; margin-right: 8px; }
.strip .query img { outline: 2px solid var(--link); outline-offset: 1px; }
.strip .own img { outline: 2px solid var(--good); outline-offset: 1px; }
.strip .same span span, .strip .own span span { color: var(--good); }
.strip .other span span { color: var(--bad); }
.views { list-style: none; margin: 12px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 16px 10px; }
.views img { display: block; width: 100px; border-radius: 4px; }
.views.small img { image-rendering: pixelated; }
.views.sounds img, .views.sounds li { width: 210px; }
.views.clips { gap: 20px 24px; }
.views.clips li { width: min(340px, 100%); }
.views.clips img { width: 100%; image-rendering: auto; }
.views .said { list-style: none; margin: 0; padding: 0; font-size: 0.85rem; }
.views .said li { width: auto; }
.views .said li:first-child { font-weight: 600; }
.views .lacking { font-style: italic; }
.views span { display: block; font-size: 0.8rem; color: var(--soft); margin-bottom: 6px; overflow-wrap: anywhere; }
.views li { width: 100px; }
@media (min-width: 800px) { .strip:not(.films, .sounds) li:not(.asks) { width: 72px; } }
@media print { nav, audio { display: none; } section { break-inside: avoid-page; } }
"""
