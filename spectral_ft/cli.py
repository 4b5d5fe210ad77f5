"""The console script `spectral-ft COMMAND ...`: each command is one module of the package."""

import importlib
import sys

from spectral_ft.option_help import ENTRIES

COMMANDS = {
    **ENTRIES,
    "export": "a finished run as a merged model, PEFT adapter, state dict or Axolotl list",
    "report": "runs and sweeps as a table, an HTML page, or their progress",
}


def main() -> None:
    """Dispatch to the command."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        listed = "\n".join(f"  {name:<10}{about}" for name, about in COMMANDS.items())
        print(f"usage: spectral-ft COMMAND [OPTIONS]; COMMAND --help tells its options\n\n{listed}")
        sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 1)
    command = sys.argv.pop(1)
    importlib.import_module(f"spectral_ft.{command}").main()


if __name__ == "__main__":
    main()
