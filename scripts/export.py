"""Write a policy to a file for use elsewhere: ``python scripts/export.py RUN --format onnx``; see ``--help``."""

import argparse
import sys
from pathlib import Path

from cql.commands import exit_code

FORMATS = ("torchscript", "onnx", "safetensors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write the policy of a run to a file, with a model card beside it. ONNX and TorchScript files need "
        "neither the run nor this package; safetensors files are for cql.load."
    )
    parser.add_argument("run", type=Path, help="folder of a run, or a checkpoint's file")
    format_help = "TorchScript (.ts), ONNX (.onnx), or safetensors for cql.load"
    parser.add_argument("--format", required=True, choices=FORMATS, help=format_help)
    which_help = "best, last, or a step such as 15000 (default: best if there is one, else last)"
    parser.add_argument("--checkpoint", metavar="WHICH", help=which_help)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file (default: beside the checkpoint)")
    sampling_help = "add standard normal noise as second input and the log standard deviation as second output"
    parser.add_argument("--sampling", action="store_true", help=sampling_help)
    return parser.parse_args()


def export(chosen: argparse.Namespace) -> None:
    """Load, write and report."""
    from cql.training.export import export

    own = {"checkpoint": chosen.checkpoint, "out": chosen.out, "sampling": chosen.sampling}
    written = export(chosen.run, chosen.format, **own)
    print(*(f"written: {path}" for path in written), sep="\n")


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: export(chosen))


if __name__ == "__main__":
    sys.exit(main())
