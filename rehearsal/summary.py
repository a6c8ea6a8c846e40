"""The table a rehearsal ends with."""
from rich.console import Console

def show_summary(console, stage, drive, finished, seconds):
    console.print(finished.run.type, finished.run.message, f"{seconds:.1f} s, peak {finished.peak_bytes/1e6:.0f} MB")
    for c in finished.checks:
        console.print("ok " if c.passed else "NO ", c.name, "--", c.found)
