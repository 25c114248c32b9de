"""A report a person reads: one HTML file, whole in itself, without scripts or network."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ...data.codec import write_bytes

# --- What a report is made of --------------------------------------------------------------------


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Facts:
    """A few figures to see first: each a name, a value, and what it is to be read beside."""

    facts: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Args:
        data: The file: PNG, WebP or GIF.
        alt: What it shows, for those who do not see it.
        caption: What to see in it.
        still: A still, for those who asked for less motion.
        width: Of the picture on the page, in CSS pixels; on a phone, as wide as it is.
    """

    data: bytes
    alt: str
    caption: str
    still: bytes | None = None
    width: int = 640


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Pictures one above the other, each with a name of its own.

    Args:
        strips: Name, file, and what it shows, for each.
        caption: What to see in them.
    """

    strips: Sequence[tuple[str, bytes, str]]
    caption: str


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing made by this package; its text is not escaped again."""

    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of each row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Commands:
    """Command lines to go on with: what each does, and the line."""

    commands: Sequence[tuple[str, str]]


Block = Prose | Facts | Picture | Strips | Drawing | Table | Commands


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


# --- To HTML -------------------------------------------------------------------------------------


def write_report(
    path: Path, title: str, lede: str, sections: Sequence[Section], foot: str = ""
) -> Path:
    """Write a report. Raises `StorageError` if the disk refuses."""
    return write_bytes(path, render(title, lede, sections, foot).encode())


def render(title: str, lede: str, sections: Sequence[Section], foot: str = "") -> str:
    """The page as text. Every string is escaped; pictures are inside, as data URIs."""
    body = "\n".join(
        f'<section aria-labelledby="s{i}">\n<h2 id="s{i}">{escape(section.title)}</h2>\n'
        + "\n".join(_block(block) for block in section.blocks)
        + "\n</section>"
        for i, section in enumerate(sections)
    )
    return _PAGE.format(
        title=escape(title), lede=escape(lede), style=_STYLE, body=body, foot=escape(foot)
    )


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f"<p>{escape(block.text)}</p>"
        case Facts():
            cards = "".join(
                f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b> "
                f"<small>{escape(note)}</small></dd></div>"
                for name, value, note in block.facts
            )
            return f'<dl class="facts">{cards}</dl>'
        case Picture():
            image = _image(block.data, block.alt)
            if block.still is not None:
                still = f'media="(prefers-reduced-motion: reduce)" srcset="{_uri(block.still)}"'
                image = f"<picture><source {still}>{image}</picture>"
            return _figure(f'<div style="max-width:{block.width}px">{image}</div>', block.caption)
        case Strips():
            rows = "".join(
                f"<li><span>{escape(name)}</span>{_image(data, alt)}</li>"
                for name, data, alt in block.strips
            )
            return _figure(f'<ul class="strips">{rows}</ul>', block.caption)
        case Drawing():
            return _figure(block.svg, block.caption)
        case Table():
            return _table(block)
        case Commands():
            lines = "".join(
                f"<li>{escape(what)}<pre><code>{escape(line)}</code></pre></li>"
                for what, line in block.commands
            )
            return f'<ul class="commands">{lines}</ul>'


def _figure(inside: str, caption: str) -> str:
    return f"<figure>{inside}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(data: bytes, alt: str) -> str:
    return f'<img src="{_uri(data)}" alt="{escape(alt)}">'


def _uri(data: bytes) -> str:
    kinds = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}
    return f"data:image/{kinds[data[:4]]};base64,{b64encode(data).decode()}"


def _table(table: Table) -> str:
    """On a phone, a row of many columns becomes its name with a grid of named cells below."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td data-head="{escape(head)}">{escape(cell)}</td>'
            for head, cell in zip(table.head[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    kind = ' class="many"' if len(table.head) > MOST_ON_A_PHONE else ""
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Table">'
        f"<table{kind}><caption>{escape(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


MOST_ON_A_PHONE = 3  # columns

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fbfaf7;
  --card: #ffffff; --line: #d9d5cb; --accent: #1f5f8b; --warm: #a8481c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e6df; --soft: #a3abb5; --paper: #14171a;
  --card: #1c2024; --line: #363c43; --accent: #7db8e0; --warm: #e79a6c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main, footer { max-width: 46rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3.5rem; }
h1 { font: 600 2.25rem/1.15 Georgia, "Times New Roman", serif; margin: 0 0 .75rem;
  letter-spacing: -.01em; text-wrap: balance; }
.lede { font-size: 1.1875rem; color: var(--soft); margin: 0; text-wrap: pretty; }
h2 { font: 600 1.375rem/1.3 Georgia, "Times New Roman", serif; margin: 3rem 0 .5rem; }
p { margin: .5rem 0 1rem; }
figure { margin: 1.25rem 0 1.5rem; }
figcaption, caption { color: var(--soft); font-size: .9375rem; line-height: 1.5; text-align: left; }
figcaption { margin-top: .6rem; }
caption { caption-side: bottom; padding-top: .6rem; max-width: calc(100vw - 2.5rem); }
img { display: block; width: 100%; height: auto; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 2rem 0 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; }
.facts dt { font-size: .875rem; color: var(--soft); }
.facts dd { margin: 0; }
.facts b { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.facts small { display: block; font-size: .8125rem; line-height: 1.4; color: var(--soft); }
.strips { list-style: none; margin: 0; padding: 0; max-width: 34rem; display: grid;
  grid-template-columns: max-content 1fr; gap: .25rem .75rem; align-items: center; }
.strips li { display: contents; }
.strips span { font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.wide { overflow-x: auto; margin: 1rem 0 1.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .45rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th:first-child { text-align: left; padding-left: 0; }
td { white-space: nowrap; }
tbody th { font-weight: 400; }
thead th { font-size: .875rem; color: var(--soft); font-weight: 600; }
.commands { list-style: none; padding: 0; }
.commands li { margin: 0 0 .9rem; }
pre { margin: .25rem 0 0; padding: .6rem .85rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { font: .9375rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
svg { display: block; width: 100%; max-width: 40rem; height: auto; overflow: visible;
  color: var(--soft); }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .s0 { stroke: var(--accent); } svg .s1 { stroke: var(--warm); }
svg .faint { stroke: var(--accent); opacity: .28; stroke-width: 1; }
svg rect.s0 { fill: var(--accent); stroke: none; } svg rect.s1 { fill: var(--warm); stroke: none; }
svg rect.s2 { fill: var(--line); stroke: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1; }
svg.bars text { font-size: 10.5px; }
svg text.s0 { fill: var(--accent); stroke: none; } svg text.s1 { fill: var(--warm); stroke: none; }
footer { color: var(--soft); font-size: .875rem; margin-top: 3rem; padding-bottom: 3rem; }
@media (max-width: 30rem) { h1 { font-size: 1.8rem; } header { padding-top: 2rem; }
  h2 { margin-top: 2.25rem; } .facts { grid-template-columns: 1fr 1fr; }
  .many { display: flex; flex-direction: column; } .many caption { order: 1; }
  .many caption, .many tbody, .many th, .many td { display: block; }
  .many thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .many tr { display: grid; grid-template-columns: 3fr 4fr 3fr; gap: .25rem .5rem;
    padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .many th, .many td { border: 0; padding: 0; text-align: left; white-space: normal;
    font-size: .9375rem; }
  .many tbody th { grid-column: 1 / -1; font-weight: 600; }
  .many td:empty { display: none; }
  .many td::before { content: attr(data-head); display: block; color: var(--soft);
    font-size: .8125rem; line-height: 1.3; } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lede">{lede}</p>
</header>
<main>
{body}
</main>
<footer><p>{foot}</p></footer>
</body>
</html>
"""
