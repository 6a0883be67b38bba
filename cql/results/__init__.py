"""Run folders in; statistics, figures, reports and tables out."""
