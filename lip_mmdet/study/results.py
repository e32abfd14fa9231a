"""A study's figures, from the detections that are kept, as tables and plots."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import (
    AP_FIGURES,
    Arm,
    CocoEvaluation,
    Comparison,
    GroundTruth,
    compare,
    evaluate,
    figures,
    limits_up_to,
    load_detections,
    load_ground_truth,
)
from lip_mmdet.evaluation.tables import percent
from lip_mmdet.files import replace_on_success, write_text
from lip_mmdet.study.plan import Study, is_older


def score(study: Study, detections: Path) -> dict[str, float | None]:
    """Return AP to APL of detections that are kept."""
    found = figures(_evaluation(study, load_ground_truth(study.truth), detections))
    return {name: found[name] for name in AP_FIGURES}


def check_figures(study: Study) -> None:
    """Check that the recorded figures are those of the detections that are kept with them.

    Raises:
        InputError: some are not.
    """
    wrong = [
        run.name
        for run in study.runs
        if run.record() and run.record()['figures'] != score(study, run.detections)
    ]
    if wrong:
        raise InputError(f'the figures of {", ".join(wrong)} are not those of their detections')


def write_results(study: Study, resamples: int = 1000) -> Path:
    """Write tables and plots of what is done beside the results, and return the page's path.

    Args:
        study: the study.
        resamples: of the intervals.
    """
    from lip_mmdet.visualization.study import draw_arms, draw_cost

    truth = load_ground_truth(study.truth)
    arms = {
        name: Arm(
            label,
            [run.detections.name for run in runs],
            [_evaluation(study, truth, run.detections) for run in runs],
        )
        for name, label in study.labels.items()
        for runs in [study.of_arm(name)]
        if runs
    }
    comparisons = [
        (arms[name].name, compare(arms[name], [arms[baseline]], truth, resamples)[0])
        for name, baseline in study.compared
        if name in arms and baseline in arms
    ]
    costs = {arms[name].name: _cost(study, name) for name in arms}
    page = study.results / 'README.md'
    with replace_on_success(page) as file:
        write_text(file, _page(study, list(arms.values()), comparisons, costs), page)
    points = {arm.name: {n: r['values'] for n, r in arm.figures().items()} for arm in arms.values()}
    for name, figure in (('arms.png', draw_arms(points)), ('cost.png', draw_cost(points, costs))):
        with replace_on_success(study.results / name) as file:
            figure.savefig(file, dpi=110)
    return page


def _evaluation(study: Study, truth: GroundTruth, detections: Path) -> CocoEvaluation:
    found = load_detections(detections, truth)
    return evaluate(truth, found, max_detections=limits_up_to(study.max_dets))


def _cost(study: Study, arm: str) -> dict[str, float]:
    records = [run.record() for run in study.of_arm(arm)]
    return {
        key: statistics.median(record[key] for record in records)
        for key in ('mega_multiply_adds', 'milliseconds', 'seconds')
    }


def _page(
    study: Study,
    arms: list[Arm],
    comparisons: list[tuple[str, Comparison]],
    costs: dict[str, dict[str, float]],
) -> str:
    head = ['| arm | trainings | ' + ' | '.join(AP_FIGURES) + ' | M multiply-adds | ms | minutes |']
    head.append('|---|' + '---|' * (len(AP_FIGURES) + 4))
    rows = []
    for arm in arms:
        cells = [_mean_and_spread(row) for row in arm.figures().values()]
        cost = costs[arm.name]
        cells += [f'{cost["mega_multiply_adds"]:,.0f}', f'{cost["milliseconds"]:.0f}']
        cells.append(f'{cost["seconds"] / 60:.0f}')
        rows.append(f'| {arm.name} | {len(arm.runs)} | {" | ".join(cells)} |')
    lines = [
        f'# {study.name}',
        '',
        'Made by `tools/study.py` from the detections in this folder.',
        '',
        f'AP in percent at {study.max_dets} detections an image, mean and standard deviation over '
        "trainings; the backbone's cost on an image of 256 x 256; minutes of a training.",
        '',
        *head,
        *rows,
    ]
    if comparisons:
        lines += ['', '| difference | ' + ' | '.join(AP_FIGURES) + ' |']
        lines.append('|---|' + '---|' * len(AP_FIGURES))
    for name, comparison in comparisons:
        cells = [_difference(row) for row in comparison.figures.values()]
        lines.append(f'| {name} over {comparison.name} | {" | ".join(cells)} |')
    remarks = {comparison.remark for _, comparison in comparisons}
    lines += ['', *(f'In brackets: 95 % {remark}.' for remark in sorted(remarks))]
    lines += ['', '![AP of each training](arms.png)', '', '![AP against cost](cost.png)']
    older = [run.name for run in study.runs if is_older(run.record())]
    if older:
        lines += ['', f'Trained by older code than there is now: {", ".join(older)}.']
    left = [run.name for run in study.left()]
    if left:
        lines += ['', f'To be done: {", ".join(left)}.']
    if study.planned:
        lines += ['', f'Planned, not begun: {"; ".join(study.planned)}.']
    return '\n'.join(lines) + '\n'


def _mean_and_spread(row: dict[str, Any]) -> str:
    spread = '' if row['std'] is None else f' ± {percent(row["std"])}'
    return percent(row['mean']) + spread


def _difference(row: dict[str, float | None]) -> str:
    if row['difference'] is None:
        return '-'
    low, high = (percent(row[end], signed=True) for end in ('low', 'high'))
    return f'{percent(row["difference"], signed=True)} [{low}, {high}]'
