"""Draw docs/lip_block.svg: the block that downsamples by LIP (arXiv 1908.04156, figure 5)."""

from pathlib import Path

INK, LIP, PLAIN, LOGIT = '#333333', '#d55e00', '#e8e8e8', '#cfe3f2'
WIDTH, HEIGHT = 780, 430
# Centre, text, fill; the second line says what size comes out.
BOXES = [
    (400, 40, 'input', 'H x W', 'white'),
    (400, 130, 'logit trunk', '1x1, 3x3; 128 wide', LOGIT),
    (310, 210, 'head', '1x1, norm, gate', LOGIT),
    (490, 210, 'head', '1x1, norm, gate', LOGIT),
    (110, 130, 'conv 1x1', 'H x W', PLAIN),
    (110, 210, 'LIP', 'H/2 x W/2', LIP),
    (110, 290, 'conv 1x1, conv 1x1', 'first was 3x3, stride 2', PLAIN),
    (670, 210, 'LIP', 'H/2 x W/2', LIP),
    (670, 290, 'conv 1x1', 'was stride 2', PLAIN),
    (400, 385, 'sum, ReLU', 'H/2 x W/2', 'white'),
]
ARROWS = [
    ((400, 62), (400, 108)),
    ((340, 40), (110, 40), (110, 108)),
    ((460, 40), (670, 40), (670, 188)),
    ((360, 152), (310, 188)),
    ((440, 152), (490, 188)),
    ((238, 210), (182, 210)),
    ((562, 210), (598, 210)),
    ((110, 152), (110, 188)),
    ((110, 232), (110, 268)),
    ((670, 232), (670, 268)),
    ((110, 312), (110, 385), (328, 385)),
    ((670, 312), (670, 385), (472, 385)),
]


def box(x: int, y: int, name: str, detail: str, fill: str) -> str:
    wide = 160 if 'conv 1x1,' in name else 144
    color = 'white' if fill == LIP else INK
    lines = [name, detail]
    texts = ''.join(
        f'<text x="{x}" y="{y + 5 + 16 * (i - (len(lines) - 1) / 2):.0f}" fill="{color}" '
        f'font-weight="{"bold" if i == 0 else "normal"}">{line}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x - wide // 2}" y="{y - 22}" width="{wide}" height="44" rx="5" fill="{fill}" '
        f'stroke="{INK}"/>{texts}'
    )


def arrow(*points: tuple[int, int]) -> str:
    path = ' '.join(f'{x},{y}' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{INK}" marker-end="url(#tip)"/>'


def main() -> None:
    tip = (
        '<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        f'<path d="M0,0 L9,4 L0,8 z" fill="{INK}"/></marker></defs>'
    )
    body = ''.join([*(arrow(*points) for points in ARROWS), *(box(*each) for each in BOXES)])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{tip}{body}</svg>\n'
    )
    Path(__file__).with_suffix('.svg').write_text(svg, encoding='utf-8')


if __name__ == '__main__':
    main()
