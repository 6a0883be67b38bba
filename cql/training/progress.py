"""How the console shows progress: numbers in words, and log lines above the progress bar."""

import contextlib
import logging
from collections.abc import Iterator, Mapping

from tqdm.contrib.logging import logging_redirect_tqdm


def duration(seconds: float) -> str:
    """Seconds in words that a person reads at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def rounded(value: float) -> str:
    """A return for the log: whole from 10 on, else with two digits, as those of tasks that pay 1 need."""
    return f"{value:.0f}" if abs(value) >= 10.0 else f"{value:.2g}"


def evaluation(metrics: Mapping[str, float]) -> str:
    """The return of an evaluation, with its standard deviation and its score if they are there."""
    text = f"return {rounded(metrics['eval_return_mean'])}"
    text += f" +- {rounded(metrics['eval_return_std'])}" if "eval_return_std" in metrics else ""
    return text + (f" (score {metrics['eval_score']:.1f})" if "eval_score" in metrics else "")


def run_line(step: int, n_steps: int, rate: float, metrics: Mapping[str, float]) -> str:
    """The line of a run at the end of an epoch."""
    line = f"step {step}/{n_steps}" + (f"  {rate:.1f} steps/s" if rate else "")
    if "eval_return_mean" in metrics:
        line += f"  {evaluation(metrics)}"
        line += f"  success {metrics['eval_success']:.2f}" if "eval_success" in metrics else ""
    names = ["critic_td", "cql_gap", "alpha_cql", "q_data", "env_steps", "online_return", "online_success"]
    names += ["offline_td_error", "offline_initial_value"]
    return line + "".join(f"  {name} {metrics[name]:.4g}" for name in names if name in metrics)


@contextlib.contextmanager
def logging_above_bar() -> Iterator[None]:
    """Log to the console without tearing the bar apart."""
    root = logging.getLogger()
    before = list(root.handlers)
    with logging_redirect_tqdm():
        # tqdm's handler stands in for those of the console; older releases of tqdm leave out their filters.
        filters = [each for handler in before if handler not in root.handlers for each in handler.filters]
        for stand_in in (handler for handler in root.handlers if handler not in before):
            for each in filters:
                stand_in.addFilter(each)
        yield
