"""Writes docs/architecture.svg: the packages from top to bottom, each of which imports only those below it.

python docs/draw_architecture.py
"""

from html import escape
from pathlib import Path

# From top to bottom; boxes of one row do not stand in an order that matters here.
ROWS = (
    (
        ("cli, commands", "one file a command: parser, lines, one call"),
        ("studies", "a published table, run again, judged"),
    ),
    (("estimator", "a scikit-learn classifier"), ("api", "fit, open_run, load_data")),
    (("report", "runs as one HTML file"), ("figures", "matplotlib only here"), ("inference", "predict, export")),
    (("config", "LightningCLI, errors as sentences"), ("progress", "the line for each epoch")),
    (("training", "Session(settings).fit() gives a RunResult"), ("guards", "what is refused or reported")),
    (("models", "Classifier and its networks"), ("data", "prepared stores, splits, resident batches")),
    (("runs", "run folder, identity, resume"), ("evaluation", "metrics, predictions, test ledger")),
    (("decoding, files, processes, text, errors, ...", "single modules"),),
)
WIDTH, HEIGHT, GAP, MARGIN = 760, 46, 10, 8


def picture() -> str:
    """Makes the SVG file."""
    total = 2 * MARGIN + len(ROWS) * (HEIGHT + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The packages from top to bottom">',
        f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
    ]
    for line, boxes in enumerate(ROWS):
        width = (WIDTH - 2 * MARGIN - GAP * (len(boxes) - 1)) / len(boxes)
        for place, (name, text) in enumerate(boxes):
            x, y = MARGIN + place * (width + GAP), MARGIN + line * (HEIGHT + GAP)
            middle = x + width / 2
            parts += [
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" rx="6" fill="#eef3f0" '
                'stroke="#2f6f3e"/>',
                f'<text x="{middle:.1f}" y="{y + 19}" text-anchor="middle" font-size="14" font-weight="600" '
                f'fill="#14331d">{escape(name)}</text>',
                f'<text x="{middle:.1f}" y="{y + 36}" text-anchor="middle" font-size="11.5" fill="#333">'
                f"{escape(text)}</text>",
            ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(picture(), encoding="utf-8")
