"""`timesformer-hf demo`: serve a page on which one drops a clip."""

import argparse
import threading

from .common import add_device, choose_device, positive


DESCRIPTION = """\
examples:
  timesformer-hf demo
  timesformer-hf demo --model ./my-model --model facebook/timesformer-base-finetuned-k600
  timesformer-hf demo --host 0.0.0.0 --port 8080 --max-upload 50

Serve a page: drop a clip on it, and see its labels, what the model looks at, and what happens when. Only this machine
can open it, unless --host says otherwise. Clips stay on this machine, and are deleted when the page ends. docs/demo.md
says more.
"""


def add_parser(commands) -> None:
    """Add `demo` and its options to the command line."""
    parser = commands.add_parser(
        "demo",
        help="serve a page on which one drops a clip",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="DIR_OR_ID",
        help="a model's folder or its name on the Hub; the option can be repeated, and the first model is chosen at "
        "the start (default: the shipped one, which can always be chosen)",
    )
    parser.add_argument(
        "--port", type=_port, metavar="P", help="the port of the page (default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address on which the page is served. 0.0.0.0: everybody who reaches this machine can open it "
        "(default: 127.0.0.1, only this machine)",
    )
    parser.add_argument(
        "--max-upload", type=positive, default=500, metavar="MB", help="the largest clip, in megabytes (default: 500)"
    )
    add_device(parser, dtype=False)


def _port(text: str) -> int:
    """The type of an argument that is a port."""
    value = int(text)
    if not 1 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"{value} must be a port, from 1 to 65535")
    return value


def run(args: argparse.Namespace) -> int:
    """Serve the page until the user ends the program."""
    from ..demo.server import choose_port, serving

    choose_port(args.host, args.port)  # before torch is imported
    device = choose_device(args.device)
    with serving(args.model, args.host, args.port, args.max_upload, device) as address:
        print(f"The page is at {address} (end it with Ctrl+C)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
    return 0
