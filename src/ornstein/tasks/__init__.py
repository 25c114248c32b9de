"""One function per verb a user would say: sample, restore.

Each verb has its parameters in one frozen dataclass of `ornstein.tasks.options`, from which the
command line, Python and whatever comes after take names, types, bounds and help.
"""
