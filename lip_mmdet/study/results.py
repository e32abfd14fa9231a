"""A study's figures, from the detections that are kept, as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lip_mmdet.engine.config_checks import config_classes
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
    read_json,
)
from lip_mmdet.evaluation.tables import percent
from lip_mmdet.files import replace_on_success, write_text
from lip_mmdet.study.costs import COSTS, backbone_of
from lip_mmdet.study.plan import Run, Study, by_arm

# Detections below this are not kept.
LEAST_SCORE = 0.05
_MADE = 'Made by `tools/study.py` from the detections in this folder.'
_SEE_COSTS = '; what the backbone costs, see [costs.json](costs.json)'


def score(study: Study, run: Run) -> dict[str, float | None]:
    """Return AP to APL of a run's detections that are kept, at as many as when it was recorded."""
    max_dets = (run.record() or {}).get('max_dets', study.max_dets)
    found = figures(_evaluation(load_ground_truth(run.truth), run, max_dets))
    return {name: found[name] for name in AP_FIGURES}


def check_figures(study: Study) -> None:
    """Check that the recorded figures are those of the detections that are kept with them.

    Raises:
        InputError: some are not, or where the tables go is a page that the study did not write.
    """
    page = study.results / 'README.md'
    if page.is_file() and _MADE not in page.read_text('utf-8', 'replace'):
        raise InputError(f'{page} is another page; name a folder of its own for `results`')
    wrong = [
        run.name
        for run in study.runs
        if run.record() and run.record()['figures'] != score(study, run)
    ]
    if wrong:
        raise InputError(f'the figures of {", ".join(wrong)} are not those of their detections')


def write_results(study: Study, resamples: int = 1000) -> Path:
    """Write tables and plots of what is done beside the results, and return the page's path.

    Args:
        study: the study.
        resamples: of the intervals.
    """
    from lip_mmdet.visualization.study import draw_arms, draw_cost, draw_differences
    from lip_mmdet.visualization.theme import names_as_written

    truths = {run.truth: load_ground_truth(run.truth) for run in study.runs if run.record()}
    arms = {
        name: Arm(
            label,
            [run.detections.name for run in runs],
            [_evaluation(truths[run.truth], run, study.max_dets) for run in runs],
        )
        for name, label in study.labels.items()
        for runs in [study.of_arm(name)]
        if runs
    }
    comparisons = [
        (arms[name].name, compare(arms[name], [arms[baseline]], truth, resamples)[0])
        for name, baseline in study.compared
        if name in arms and baseline in arms
        for truth in [truths[study.of_arm(name)[0].truth]]
    ]
    measured = read_json(study.costs_file, 'costs')['arms'] if study.costs_file.is_file() else {}
    now = {run.arm: backbone_of(run) for run in study.runs}  # the arm may have had another
    costs = {
        arm.name: measured[name]
        for name, arm in arms.items()
        if name in measured and measured[name].get('backbone', now[name]) == now[name]
    }
    points = {arm.name: {n: r['values'] for n, r in arm.figures().items()} for arm in arms.values()}
    # AP on other data than the first arm's is no match for it.
    alike = {study.labels[run.arm] for run in study.runs if run.truth == study.runs[0].truth}
    comparable = {arm: points[arm] for arm in costs if arm in alike}
    with names_as_written():
        pictures = {'arms.png': draw_arms(points)}
        if comparisons:
            found = [(arm, one.name, one.figures) for arm, one in comparisons]
            pictures['differences.png'] = draw_differences(found)
        if comparable:
            pictures['cost.png'] = draw_cost(comparable, costs)
        for name, figure in pictures.items():
            with replace_on_success(study.results / name) as file:
                figure.savefig(file, dpi=110)
    page = study.results / 'README.md'
    with replace_on_success(page) as file:
        text = _page(study, list(arms.values()), comparisons, costs, 'cost.png' in pictures)
        write_text(file, text, page)
    return page


def _evaluation(truth: GroundTruth, run: Run, max_dets: int) -> CocoEvaluation:
    names, known = config_classes(run.config, 'test_dataloader'), set(truth.category_names.values())
    # The file may have classes that are not detected.
    asked = truth.categories_named([name for name in names if name in known]) if names else None
    found = load_detections(run.detections, truth)
    return evaluate(truth, found, category_ids=asked, max_detections=limits_up_to(max_dets))


def _page(
    study: Study,
    arms: list[Arm],
    comparisons: list[tuple[str, Comparison]],
    costs: dict[str, dict[str, float]],
    drawn: bool,
) -> str:
    columns = COSTS if costs else {}
    head = ['| arm | trainings | ' + ' | '.join([*AP_FIGURES, *columns.values()]) + ' |']
    head.append('|---|' + '---|' * (1 + len(AP_FIGURES) + len(columns)))
    rows = []
    for arm in arms:
        cells = [_mean_and_spread(row) for row in arm.figures().values()]
        cost = costs.get(arm.name)
        cells += [f'{cost[key]:,.0f}' if cost else '-' for key in columns]
        rows.append(f'| {arm.name} | {len(arm.runs)} | {" | ".join(cells)} |')
    lines = [
        f'# {study.name}',
        '',
        _MADE,
        '',
        f'AP in percent at {study.max_dets} detections an image, of those with a score of at least '
        f'{LEAST_SCORE}, mean and standard deviation over trainings{_SEE_COSTS if costs else ""}.',
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
    if comparisons:
        lines += ['', '![Differences in AP and APS](differences.png)']
    remarks = {comparison.remark for _, comparison in comparisons}
    lines += ['', *(f'In brackets: 95 % {remark}.' for remark in sorted(remarks))]
    lines += ['', '![Figures of each training](arms.png)']
    if drawn:
        lines += ['', '![AP against cost](cost.png)']
    older = study.older()
    if older:
        lines += ['', f'Trained by older code than there is now: {older}.']
    if study.left():
        lines += ['', f'To be done: {by_arm(study.left())}.']
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
