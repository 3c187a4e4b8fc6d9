"""Run folders -> numbers, pictures and one self-contained page.

    collect.py   a run folder -> summary.json
    compare.py   several run folders -> one table: mean and spread over seeds
    figures.py   numbers -> inline SVG
    pictures.py  rows and candidates -> pictures as data URIs
    html.py      all of it -> report.html
    sweep.py     a sweep's folder -> sweep.html

Reads finished runs only: nothing here decides a result.
"""

from raygen.report.collect import summarize, write_summary
from raygen.report.compare import compare, write_comparison
from raygen.report.html import write_report

__all__ = ["compare", "summarize", "write_comparison", "write_report", "write_summary"]
