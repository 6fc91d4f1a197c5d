"""The looks of the lab's pages: one style sheet, for light and dark, screen, phone and paper."""

from __future__ import annotations

STEP_TONES = {
    "accepted": "api",
    "queued": "queue",
    "blocked": "block",
    "claimed": "claim",
    "addressed": "net",
    "sent": "send",
    "image": "image",
    "plugged": "plug",
    "paused": "start",
    "wired": "wire",
    "signalled": "signal",
    "resumed": "resume",
    "stopped": "start",
    "removed": "plug",
    "released": "net",
    "reported": "report",
}
"""Step of a timeline → its colour: greys are the control plane's, ochres the host's, and the network's path goes from teal to red."""

_LIGHT = """
--paper:#fbfaf7;--card:#ffffff;--ink:#1b2126;--soft:#566069;--rule:#dedad1;--grid:#e7e3da;
--good:#0d6b68;--bad:#b2381a;--warn:#8a5a00;--plain:#4a6a8a;--goodwash:#e3f0ee;--badwash:#f8e8e2;
--api:#b9bfc5;--queue:#7d8790;--block:#59636c;--claim:#9aa9b8;--net:#7467a8;--send:#a9b6c2;
--image:#d9b96a;--plug:#c28e2c;--start:#a56f12;--wire:#159188;--signal:#c9472a;--resume:#5d9e4e;--report:#c7ccd1;
"""
_DARK = """
--paper:#14181b;--card:#1b2024;--ink:#e9e6df;--soft:#a4aeb6;--rule:#343b41;--grid:#2a3036;
--good:#55c4b8;--bad:#ff8d6b;--warn:#e0ac4f;--plain:#8fb2d6;--goodwash:#16312f;--badwash:#3a211a;
--api:#59626a;--queue:#8b959e;--block:#b3bcc4;--claim:#75869a;--net:#a397d9;--send:#66737f;
--image:#e3c881;--plug:#d3a04a;--start:#b98430;--wire:#36b3a8;--signal:#f0704f;--resume:#82c271;--report:#4b545b;
"""
_TONES = tuple(dict.fromkeys(STEP_TONES.values()))

STYLE = (
    ":root{color-scheme:light dark;"
    + _LIGHT
    + "}@media (prefers-color-scheme:dark){:root{"
    + _DARK
    + "}}@media print{:root{"
    + _LIGHT
    + "}}"
    + "".join(f".seg.{tone}{{fill:var(--{tone})}}" for tone in _TONES)
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Liberation Sans","DejaVu Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:61rem;margin:0 auto;padding:clamp(1.25rem,4vw,3.5rem) clamp(1rem,4vw,2.5rem) 4rem}
h1,h2,.lead{font-family:"Iowan Old Style","Palatino Linotype",Palatino,"URW Palladio L",Charter,Georgia,"DejaVu Serif",serif}
h1{font-size:clamp(1.9rem,5vw,2.9rem);line-height:1.12;letter-spacing:-.015em;font-weight:600;margin:.2em 0 .45em;text-wrap:balance}
h2{font-size:clamp(1.3rem,3vw,1.65rem);line-height:1.25;letter-spacing:-.005em;font-weight:600;margin:0 0 .35rem;text-wrap:balance}
h3{font-size:.95rem;margin:0 0 .4rem;font-weight:650}
p{margin:.3rem 0 .8rem;max-width:44rem}
.kicker{font-size:.8rem;letter-spacing:.08em;text-transform:uppercase;color:var(--soft);margin:0}
.lead{font-size:clamp(1.12rem,2.4vw,1.36rem);line-height:1.45;max-width:48rem;margin:0 0 1.6rem}
.quiet,.note{color:var(--soft);font-size:.9rem}
section{margin-top:3.4rem;padding-top:1.5rem;border-top:1px solid var(--rule)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:1px;
background:var(--rule);border:1px solid var(--rule);margin:0}
.tile{background:var(--card);padding:1rem 1.1rem}
.tile dt{font-size:.85rem;color:var(--soft);line-height:1.35}
.tile dd{margin:.15rem 0 .1rem;font-size:1.85rem;line-height:1.2;font-weight:600;letter-spacing:-.02em}
.tile dd+dd{font-size:.85rem;font-weight:400;letter-spacing:0;color:var(--soft);line-height:1.4}
.tile.good dd:first-of-type{color:var(--good)}.tile.bad dd:first-of-type{color:var(--bad)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:2rem 3rem}
.pair>*{min-width:0}
figure{margin:1.3rem 0 0}
.pair figure{margin-top:.8rem}
.rows{display:grid;grid-template-columns:fit-content(15rem) minmax(0,1fr) max-content;gap:.2rem 1rem}
.row{display:grid;grid-template-columns:subgrid;grid-column:1/-1;align-items:center;padding:.16rem 0}
.row .label{font-size:.92rem;line-height:1.3}
.row .value{font-size:.88rem;text-align:right;white-space:nowrap;color:var(--soft)}
.row .value b{color:var(--ink);font-weight:650}
.row.bad .value b{color:var(--bad)}.row.good .value b{color:var(--good)}
.strip,.plot svg{display:block;overflow:visible}
.pair .rows{grid-template-columns:minmax(0,1fr) max-content}
.pair .row{grid-template-areas:"label value" "strip strip"}
.pair .row.foot .label,.pair .row.foot .value{display:none}
.pair .row .label{grid-area:label}.pair .row .value{grid-area:value}.pair .row .strip{grid-area:strip}
.plot{display:grid;grid-template-columns:3.1rem minmax(0,1fr);column-gap:.5rem;margin-top:.2rem}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1.6rem 2rem;margin-top:1.2rem}
.small h3{margin:0}.small p{margin:0 0 .2rem;font-size:.85rem}.small p.bad{color:var(--bad);font-weight:600}
svg text{font:11.5px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",Arial,sans-serif}
.grid{stroke:var(--grid);stroke-width:1}.mark{stroke:var(--warn);stroke-width:1.2;stroke-dasharray:4 3}
.tick{fill:var(--soft)}.tick.warn{fill:var(--warn)}
.bar,.dot,.speck,.seg.plain{fill:var(--plain)}.span{stroke:var(--plain);stroke-width:2;stroke-opacity:.55}
.bar.good,.dot.good,.speck.good,.seg.good{fill:var(--good)}.bar.bad,.dot.bad,.speck.bad,.seg.bad{fill:var(--bad)}
.span.good{stroke:var(--good)}.span.bad{stroke:var(--bad)}
.dot.hollow{fill:var(--paper);stroke:var(--plain);stroke-width:2}.dot.hollow.good{stroke:var(--good)}.dot.hollow.bad{stroke:var(--bad)}
.ring{fill:none;stroke:var(--ink);stroke-width:1.6}.cross{stroke:var(--bad);stroke-width:2.4;fill:none}
.line{fill:none;stroke:var(--plain);stroke-width:2;stroke-linejoin:round}.line.good{stroke:var(--good)}.line.bad{stroke:var(--bad)}
.line.thin{stroke-width:1.4;stroke-dasharray:2 2.5}
.seg{stroke:var(--paper);stroke-width:.8}.seg.lost{fill:var(--badwash);stroke:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;padding:0;margin:.8rem 0 .6rem;font-size:.85rem;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:.4rem}
.scroll{overflow-x:auto;margin-top:1rem}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--plain);outline-offset:3px}
table{border-collapse:collapse;font-size:.88rem;min-width:100%}
caption{text-align:left;color:var(--soft);font-size:.85rem;padding-bottom:.4rem}
th,td{padding:.42rem .9rem .42rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);line-height:1.4}
.scroll td:not(.n){min-width:9rem}
thead th{color:var(--soft);font-weight:500;font-size:.82rem;vertical-align:bottom}
tbody th{font-weight:600}
.n{text-align:right;white-space:nowrap}
td .bad,td.bad{color:var(--bad);font-weight:650}td .good{color:var(--good)}
.chips{display:flex;flex-wrap:wrap;gap:.35rem;list-style:none;padding:0;margin:.1rem 0}
.chips li{background:var(--card);border:1px solid var(--rule);border-radius:3px;padding:.08rem .45rem;
font-size:.83rem;overflow-wrap:anywhere}
.chips s{color:var(--soft)}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
dl.facts{display:grid;grid-template-columns:fit-content(14rem) minmax(0,1fr);gap:.25rem 1.4rem;font-size:.92rem;margin:.6rem 0}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;overflow-wrap:anywhere}
.three{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr));gap:1.5rem 2.5rem}
.three ul{margin:0;padding-left:1.1rem;font-size:.92rem}.three li{margin:.25rem 0}
details{margin-top:1.1rem}summary{cursor:pointer;color:var(--soft);font-size:.9rem}
footer{margin-top:3.4rem;padding-top:1rem;border-top:1px solid var(--rule);color:var(--soft);font-size:.85rem}
@media (max-width:40rem){
.rows{grid-template-columns:minmax(0,1fr) max-content}
.row{grid-template-areas:"label value" "strip strip"}
.row .label{grid-area:label}.row .value{grid-area:value}.row .strip{grid-area:strip}
.row.foot .label,.row.foot .value,.pair .row.foot .label,.pair .row.foot .value{display:none}
dl.facts{grid-template-columns:minmax(0,1fr);gap:0}dl.facts dd{margin-bottom:.5rem}
section{margin-top:2.4rem}
}
@media print{
@page{margin:16mm 14mm}
body{background:#fff;font-size:10.5pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:none;padding:0}
section{margin-top:1.6rem;padding-top:.9rem}
figure,.tile,.small>*,tr,.row{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}
}
"""
)


def step_tone(step: str) -> str:
    """The colour class of a step; of one that is not known the control plane's grey."""
    return STEP_TONES.get(step, "api")
