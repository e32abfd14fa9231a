"""A study: detectors trained with several seeds, compared, and rerun by one command."""

from lip_mmdet.study.costs import write_costs
from lip_mmdet.study.plan import Run, Study
from lip_mmdet.study.reading import read_study
from lip_mmdet.study.results import check_figures, write_results
from lip_mmdet.study.training import carry_out

__all__ = [
    'Run',
    'Study',
    'carry_out',
    'check_figures',
    'read_study',
    'write_costs',
    'write_results',
]
